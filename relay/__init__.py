"""Things that carry across a boundary."""

if __name__ != "memoryd.relay":
    raise ImportError(f"import memoryd.relay, not {__name__}: the folder is part of the memoryd package")
