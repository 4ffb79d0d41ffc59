"""Things with a mailbox."""

if __name__ != "memoryd.actors":
    raise ImportError(f"import memoryd.actors, not {__name__}: the folder is part of the memoryd package")
