"""Names of tasks, data sets and algorithms as names of files, and back.

A name may hold a slash ("ALE/Pong-v5"), a colon ("module:Task-v0") or come from a file that a
stranger wrote ("../../x"). Escaped as in an address (a slash is %2F) it is one file name and no
path, two names never share one, and names such as "Hopper-v4" stay as they are.
"""

from urllib.parse import quote, unquote

LONGEST = 200  # characters, which leaves room for endings such as .partial; systems allow 255


def escape(name: str) -> str:
    """`name` as the name of a file. ValueError for an empty name and one that is too long."""
    escaped = quote(name, safe="")
    if escaped.startswith("."):  # neither hidden nor a folder above
        escaped = "%2E" + escaped[1:]
    if not 0 < len(escaped) <= LONGEST:
        raise ValueError(
            f"{name[:40]!r} has {len(escaped)} characters as the name of a file; "
            f"a name has 1 to {LONGEST}"
        )
    return escaped


def unescape(file_name: str) -> str:
    """The name that `escape` was given."""
    return unquote(file_name)
