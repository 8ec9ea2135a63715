"""Model folders: saved, loaded and checked; weights of other projects."""
