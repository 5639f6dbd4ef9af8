"""How a variable is set where the reader sits, for the advice: PowerShell on Windows, a POSIX shell elsewhere."""

from __future__ import annotations

__all__ = ["assign", "unset"]


def assign(platform: str, variable: str, value: str) -> str:
    """A command that sets a variable for what is started next in the same window.

    Args:
        platform: As `sys.platform`.
        variable: Its name.
        value: Without quotation marks or spaces in it.
    """
    return f'$env:{variable} = "{value}"' if platform == "win32" else f"export {variable}={value}"


def unset(platform: str, variable: str) -> str:
    """A command that takes it away again."""
    return f"Remove-Item Env:{variable}" if platform == "win32" else f"unset {variable}"
