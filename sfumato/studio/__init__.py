"""The studio: translate, compare and look inside in a browser, on this machine alone (`sfumato studio`).

A face of the package: it shows what the public functions do, with their parameters as controls and their
docstrings as help, and computes nothing itself.  Its files, from the ground up:

    limits      what a visitor may ask of the machine
    given       models and folders that were named at the start; nothing else is read
    intake      pictures from outside, checked before they are decoded
    controls    a function's parameters as controls
    look        fonts, colours, and where things are on a phone
    page        what the tabs share
    jobs        work that is watched, and can be stopped
    translating, comparing, inside, data, about     a tab each
    room        where uploads and results are, and what removes them
    guard       who may ask: the studio's own page, at its own address
    serve       all of it behind an address
"""

from sfumato.studio.app import studio

__all__ = ["studio"]
