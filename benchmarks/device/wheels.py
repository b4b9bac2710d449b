"""The wheels that this package needs and a device's image lacks, found by walking what each of them requires."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping
from email.parser import Parser
from itertools import chain
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

PYTHON = "3.12"
# pip takes a platform as it is named, and older ones only if they are named too.
PLATFORMS = [*(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17, 12, 5)), "manylinux2014_x86_64"]
ENVIRONMENT = {
    **default_environment(),
    **{"python_version": PYTHON, "python_full_version": f"{PYTHON}.0", "implementation_version": f"{PYTHON}.0"},
    **{"platform_machine": "x86_64", "platform_system": "Linux", "sys_platform": "linux", "os_name": "posix"},
}

Image = Mapping[str, Version | None]  # what an image has; None if the version is not known
Sides = dict[str, list[tuple[Requirement, str]]]  # what is required of a package, and by which


def read_image(path: Path) -> dict[str, Version | None]:
    """An image's packages from lines like ``torch==2.11.0`` or, if the version is not known, ``pandas``."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    pairs = (line.partition("==") for line in lines if line)
    return {canonicalize_name(name): Version(version) if version else None for name, _, version in pairs}


def read_pins(path: Path) -> dict[str, Requirement]:
    """The versions that the project is tested with."""
    lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    requirements = (Requirement(line) for line in lines if line)
    return {canonicalize_name(requirement.name): requirement for requirement in requirements}


def roots(pyproject: Path, extras: Iterable[str] = ()) -> list[Requirement]:
    """What the project itself requires, and its extras. From Python 3.11 on, as the tests of this are."""
    import tomllib

    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    optional = project["optional-dependencies"]
    if unknown := sorted(set(extras) - set(optional)):
        raise SystemExit(f"there is no extra {', '.join(unknown)}; the extras are: {', '.join(sorted(optional))}")
    return [Requirement(line) for line in chain(project["dependencies"], *(optional[extra] for extra in extras))]


class Collection:
    """Wheels in a folder. ``required``: what was met on the walk, of the image's packages too."""

    def __init__(self, folder: Path, image: Image, pins: Mapping[str, Requirement]) -> None:
        self.folder = folder
        self.image = image
        self.pins = pins
        self.required: Sides = defaultdict(list)
        self.wheels: dict[str, Path] = {}

    def walk(self, requirements: Iterable[Requirement], by: str) -> None:
        """Fetch what is required and missing, and what that requires in turn."""
        waiting = deque((requirement, by) for requirement in requirements if applies(requirement, {""}))
        seen: set[tuple[str, str]] = set()
        while waiting:
            requirement, by = waiting.popleft()
            name = canonicalize_name(requirement.name)
            self.required[name].append((requirement, by))
            if name in self.image:
                continue
            wheel = self.wheels.get(name) or self._fetch(name, requirement)
            self.wheels[name] = wheel
            for extra in {"", *requirement.extras} - {extra for met, extra in seen if met == name}:
                seen.add((name, extra))
                waiting.extend((needed, name) for needed in requires(wheel) if newly_applies(needed, extra))

    def misfits(self) -> list[str]:
        """What is required in a version that neither the wheels nor the image have."""
        versions = {**self.image, **{name: version_of(wheel) for name, wheel in self.wheels.items()}}
        return [
            f"{by} wants {requirement}, and there is {versions[name]}"
            for name, sides in self.required.items()
            for requirement, by in sides
            if (version := versions[name]) and not requirement.specifier.contains(version, prereleases=True)
        ]

    def unverified(self) -> list[str]:
        """What is required of the image in some version, where the image's is not known."""
        names = [name for name in self.required if name in self.image and self.image[name] is None]
        return sorted(str(r) for name in names for r, _ in self.required[name] if str(r.specifier))

    def _fetch(self, name: str, requirement: Requirement) -> Path:
        """The wheel that is here already, or one downloaded, or one built of a pure source distribution."""
        if here := [path for path in self.folder.glob("*.whl") if parse_wheel_filename(path.name)[0] == name]:
            return here[0]
        pin = self.pins.get(name)
        wanted = f"{name}{pin.specifier if pin and applies(pin, {''}) else requirement.specifier}"
        platforms = [f"--platform={platform}" for platform in PLATFORMS]
        target = ["--only-binary=:all:", f"--python-version={PYTHON}", "--implementation=cp", *platforms]
        downloaded = pip("download", "--no-deps", "--dest", str(self.folder), *target, wanted)
        if not downloaded and not pip("wheel", "--no-deps", "--wheel-dir", str(self.folder), wanted):
            raise SystemExit(f"no wheel of {wanted} for Python {PYTHON}, and none can be built")
        (wheel,) = (path for path in self.folder.glob("*.whl") if parse_wheel_filename(path.name)[0] == name)
        if not downloaded and not wheel.name.endswith("-none-any.whl"):
            raise SystemExit(f"{wheel.name} was built for this machine's Python alone")
        return wheel


def pip(*arguments: str) -> bool:
    """Whether pip did it; what it says goes to stderr."""
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stdout=sys.stderr).returncode == 0


def applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    """Whether it counts on the device, with one of these extras of what requires it ("" for none)."""
    marker = requirement.marker
    return marker is None or any(marker.evaluate({**ENVIRONMENT, "extra": extra}) for extra in extras)


def newly_applies(requirement: Requirement, extra: str) -> bool:
    """Whether it counts with this extra, and not without."""
    return applies(requirement, {extra}) and (not extra or not applies(requirement, {""}))


def requires(wheel: Path) -> Iterator[Requirement]:
    """What a wheel says that it requires, whatever the environment."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        message = Parser().parsestr(archive.read(metadata).decode("utf-8"))
    return map(Requirement, message.get_all("Requires-Dist") or ())


def version_of(wheel: Path) -> Version:
    return parse_wheel_filename(wheel.name)[1]
