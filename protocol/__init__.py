"""What is said: data only, no I/O, no asyncio."""

if __name__ != "memoryd.protocol":
    raise ImportError(f"import memoryd.protocol, not {__name__}: the folder is part of the memoryd package")
