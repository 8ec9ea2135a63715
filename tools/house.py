"""The plan of the house in numbers: rooms, floors, arrows, lines.  Reads the source; imports none of it.

    python tools/house.py [TREE]

room     a package directly in sfumato/ with all below it, or a module there; `__init__`, the public
         interface, and `__main__` are rooms, too
arrow    from a room to another that it imports: anywhere, in functions and for type checkers, too.  Many
         imports between two rooms are one arrow.
floor    of a room: how many rooms the longest path of arrows down from it has; those of a circle share one.
         The interface imports each name when it is asked for: its own arrows make no floor and no circle.
hidden   a method called by its name, as in find("ddib"): an arrow that no import shows
upward   an arrow to a higher row of FLOORS in tests/test_layers.py
circular an arrow that a path of arrows leads back from
"""

from __future__ import annotations

import ast
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

LONGEST = 15
INTERFACE = "__init__"


class House:
    """The source of a tree, and what can be counted in it."""

    def __init__(self, tree: Path) -> None:
        root = tree / "sfumato"
        self.files = {
            ".".join(("sfumato", *p.relative_to(root).with_suffix("").parts)).removesuffix(
                ".__init__"
            ): p
            for p in sorted(root.rglob("*.py"))
        }
        if not self.files:
            raise SystemExit(f"{root} has no Python: give the folder that holds sfumato/")
        self.text = {m: p.read_text(encoding="utf-8") for m, p in self.files.items()}
        self.trees = {m: ast.parse(text) for m, text in self.text.items()}
        self.lines = {m: len(text.splitlines()) for m, text in self.text.items()}
        self.rooms = sorted({room(m) for m in self.files})
        pairs = {(room(m), room(o)) for m in self.files for o in self.imported(m)}
        self.arrows = sorted((a, b) for a, b in pairs if a != b)
        self.down: dict[str, set[str]] = {r: set() for r in self.rooms}
        for a, b in self.arrows:
            if a != INTERFACE:
                self.down[a].add(b)

    def imported(self, module: str) -> Iterator[str]:
        """The modules of sfumato that a module imports anywhere."""
        for node in ast.walk(self.trees[module]):
            names = []
            if isinstance(node, ast.Import):
                names = [a.name for a in node.names]
            elif isinstance(node, ast.ImportFrom):
                package = self.files[module].name == "__init__.py"
                here = module if package else module.rpartition(".")[0]
                base = here.rsplit(".", node.level - 1)[0] if node.level else ""
                source = ".".join(filter(None, (base, node.module)))
                both = ((f"{source}.{a.name}", source) for a in node.names)
                names = [inner if inner in self.files else outer for inner, outer in both]
            yield from (n for n in names if n.split(".")[0] == "sfumato")

    def reached(self, start: str) -> set[str]:
        """The rooms that a path of arrows leads to."""
        seen: set[str] = set()
        rest = [start]
        while rest:
            new = self.down[rest.pop()] - seen
            seen |= new
            rest += new
        return seen

    def circular(self) -> list[tuple[str, str]]:
        """The arrows in circles."""
        return [(a, b) for a, b in self.arrows if a in self.reached(b)]

    def floors(self) -> dict[str, int]:
        """{room: its floor, from 1}."""
        floors: dict[str, int] = {}

        def floor(r: str) -> int:
            if r not in floors:
                circle = {r} | {o for o in self.reached(r) if r in self.reached(o)}
                below = set().union(*(self.down[o] for o in circle)) - circle
                floors[r] = 1 + max(map(floor, below), default=0)
            return floors[r]

        return {r: floor(r) for r in self.rooms}

    def hidden(self) -> list[str]:
        """The places where a method is called by its name."""
        prefix = "sfumato.methods."
        methods = {m.removeprefix(prefix) for m in self.files if m.startswith(prefix)}
        places = []
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Call)
                    and node.args
                    and isinstance(node.args[0], ast.Constant)
                ):
                    called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
                    called = called.id if isinstance(called, ast.Name) else called
                    if called == "find" and node.args[0].value in methods:
                        places.append(f"{module}:{node.lineno} find({node.args[0].value!r})")
        return places

    def functions(self) -> list[tuple[int, str]]:
        """The functions and their lines, the longest first."""
        found = []

        def inside(node: ast.AST, path: str) -> None:
            for child in ast.iter_child_nodes(node):
                named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
                name = f"{path}.{child.name}" if named else path
                if named and not isinstance(child, ast.ClassDef):
                    found.append((child.end_lineno - child.lineno + 1, name))
                inside(child, name)

        for module, tree in self.trees.items():
            inside(tree, module)
        return sorted(found, key=lambda f: (-f[0], f[1]))

    def count(self, kind: type[ast.AST]) -> int:
        """How many statements of a kind there are."""
        return sum(isinstance(node, kind) for t in self.trees.values() for node in ast.walk(t))


def room(module: str) -> str:
    """The room of a module."""
    return [*module.split("."), INTERFACE][1]


def rows(tree: Path) -> list[tuple[str, ...]]:
    """FLOORS of the tree's tests/test_layers.py; none without that file."""
    file = tree / "tests/test_layers.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "FLOORS":
            return ast.literal_eval(node.value)
    return []


def upward(arrows: list[tuple[str, str]], table: list[tuple[str, ...]]) -> list[tuple[str, str]]:
    """The arrows that lead to a higher row of the table."""
    row = {r: i for i, names in enumerate(table) for r in names}
    return [(a, b) for a, b in arrows if row.get(a, len(table)) < row.get(b, -1)]


def said(arrows: list[tuple[str, str]]) -> str:
    """A number of arrows, and which they are."""
    return f"{len(arrows):>7,}  {', '.join(f'{a} -> {b}' for a, b in arrows)}".rstrip()


def main(tree: Path) -> None:
    """Prints the tables."""
    house = House(tree)
    floors, functions, places = house.floors(), house.functions(), house.hidden()
    lines: Counter[str] = Counter()
    for module, n in house.lines.items():
        lines[room(module)] += n
    tops = sum(p.parent == tree / "sfumato" for p in house.files.values())
    print(f"rooms               {len(house.rooms):>7,}")
    print(f"floors              {max(floors.values()):>7,}")
    print(f"arrows              {len(house.arrows):>7,}")
    print(f"modules at the top  {tops:>7,}")
    print(f"modules             {len(house.files):>7,}")
    print(f"lines               {sum(lines.values()):>7,}")
    print(f"functions           {len(functions):>7,}")
    print(f"raise statements    {house.count(ast.Raise):>7,}")
    print(f"circular arrows     {said(house.circular())}")
    print(f"upward arrows       {said(upward(house.arrows, rows(tree)))}")
    print(f"hidden arrows       {len(places):>7,}  {', '.join(places)}".rstrip())
    print("\nfloor   lines  rooms")
    for n in range(max(floors.values()), 0, -1):
        here = [r for r in house.rooms if floors[r] == n]
        print(f"{n:>5} {sum(lines[r] for r in here):>7,}  ", end="")
        print(", ".join(f"{r} {lines[r]:,}" for r in here))
    print(f"\nlines  the {LONGEST} longest functions")
    for n, name in functions[:LONGEST]:
        print(f"{n:>5}  {name}")
    print(f"\nlines  the {LONGEST} longest files")
    for module, n in sorted(house.lines.items(), key=lambda f: (-f[1], f[0]))[:LONGEST]:
        print(f"{n:>5}  {house.files[module].relative_to(tree)}")


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that has enough may go
    main(Path(sys.argv[1] if sys.argv[1:] else Path(__file__).parents[1]))
