"""What the image is made of, as a CycloneDX 1.6 bill of materials.

    sbom.py ROOT > sbom.cdx.json

Reads the finished tree and nothing else, so it cannot say what is not in it: our package, the
dependencies by their own metadata, the interpreter, and each shared library and program by its
digest. The same tree makes the same bill: it has no time and no serial number.
"""

import hashlib
import json
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from platform import python_version
from typing import Any

Component = dict[str, Any]


def bill(root: Path) -> Component:
    """The bill of `root`, which holds bin, and lib with the modules of one Python."""
    (modules,) = (root / "lib").glob("python3.*")
    version = _version(modules / "probe")
    ours = f"pkg:pypi/accept-probe@{version}"
    packages = sorted(map(_package, distributions(path=[str(modules)])), key=_reference)
    interpreter = {
        "type": "platform",
        "bom-ref": f"pkg:generic/python@{python_version()}",
        "name": "python",
        "version": python_version(),
        "purl": f"pkg:generic/python@{python_version()}",
    }
    components = [interpreter, *packages, *map(_file, sorted(_binaries(root)))]
    references = [component["bom-ref"] for component in components]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": ours,
                "name": "accept-probe",
                "version": version,
                "licenses": [{"expression": "Apache-2.0"}],
                "purl": ours,
            }
        },
        "components": components,
        "dependencies": [{"ref": ours, "dependsOn": references}],
    }


def _version(package: Path) -> str:
    for line in (package / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.partition("=")[2].strip(" \"'")
    sys.exit(f"sbom: {package} has no __version__")


def _package(distribution: Distribution) -> Component:
    name = distribution.name.lower().replace("_", "-").replace(".", "-")
    url = f"pkg:pypi/{name}@{distribution.version}"
    component = {
        "type": "library",
        "bom-ref": url,
        "name": name,
        "version": distribution.version,
        "purl": url,
    }
    # Only the field that is an SPDX expression by definition (PEP 639): the others are prose.
    if expression := distribution.metadata.get("License-Expression"):
        component["licenses"] = [{"expression": expression}]
    return component


def _binaries(root: Path) -> set[Path]:
    """Programs, and the shared libraries that no package lists among its files."""
    programs = {path for path in (root / "bin").iterdir() if path.read_bytes()[:4] == b"\x7fELF"}
    libraries = {path for path in (root / "lib").iterdir() if path.is_file()}
    return programs | {path for path in libraries if path.read_bytes()[:4] == b"\x7fELF"}


def _file(path: Path) -> Component:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return {
        "type": "file",
        "bom-ref": f"file:{path}",
        "name": str(path),
        "hashes": [{"alg": "SHA-256", "content": digest}],
    }


def _reference(component: Component) -> str:
    reference: str = component["bom-ref"]
    return reference


if __name__ == "__main__":
    json.dump(bill(Path(sys.argv[1])), sys.stdout, indent=1)
    sys.stdout.write("\n")
