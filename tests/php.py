"""php-fpm in the foreground, with one pool of its own. Debian: php-fpm."""

import shutil
from pathlib import Path

CONFIGURATION = """
[global]
error_log = {folder}/log
daemonize = no
[www]
user = nobody
group = nogroup
listen = {listen}
listen.mode = 0666
pm = static
pm.max_children = {children}
{more}
"""

PING = "ping.path = /ping"


def php_fpm(folder: Path, listen: str, *, children: int = 2, more: str = PING) -> list[str]:
    """The command that starts it on an address or the path of a socket."""
    file = folder / "fpm.conf"
    file.write_text(
        CONFIGURATION.format(folder=folder, listen=listen, children=children, more=more)
    )
    found = (shutil.which(f"php-fpm8.{minor}") for minor in range(9))
    return [next(filter(None, found), "php-fpm"), "-y", str(file), "-R"]
