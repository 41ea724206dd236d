"""The tools of a host of the Model Context Protocol (MCP), over HTTP and over stdin and stdout.

The package `mcp` is optional: import the modules below only where `is_installed`.
"""

from importlib.util import find_spec


def is_installed() -> bool:
    """Whether the package `mcp` is there, in its second version."""
    return find_spec("mcp_types") is not None  # the first version has no such package
