"""One paper, one file.  Methods never import each other, and nobody imports a method by name."""
