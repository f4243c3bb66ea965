"""Label a few images, find the rest: on drawn scenes, on photographs that come with scikit-image, or on your own.

python -m demo                   run the steps that are not done yet, on drawn scenes; then on both photographs below
python -m demo --app             and open the FiftyOne App on the result
python -m demo --coins           label three coins of a photograph, find the others
python -m demo --galaxies        label five galaxies of the Hubble deep field, find the others, in tiles
python -m demo --photos FOLDER   the same on a folder of images with a COCO file, or on a FiftyOne dataset
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Read by FiftyOne on import: the plugin is this checkout.
os.environ.setdefault("FIFTYONE_PLUGINS_DIR", str(ROOT))
os.environ.setdefault("FIFTYONE_DO_NOT_TRACK", "true")
os.environ.setdefault("FIFTYONE_DATABASE_VALIDATION", "false")  # the bundled database is old enough to cause a warning

import fiftyone as fo  # noqa: E402

from demo import own_photos, photographs, scenes  # noqa: E402


def main() -> None:
    """Run the steps that are not done yet, and print a report."""
    parser = argparse.ArgumentParser(
        prog="python -m demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--app", action="store_true", help="open the FiftyOne App on the result")
    parser.add_argument("--coins", action="store_true", help="only find the coins in a photograph")
    parser.add_argument("--galaxies", action="store_true", help="only find the galaxies in a photograph")
    parser.add_argument(
        "--targets", type=int, help=f"images to segment ({scenes.TARGETS}; of your photographs {own_photos.TARGETS})"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "demo" / "output", help="folder for images and pictures")
    own = parser.add_argument_group("your own photographs")
    own.add_argument(
        "--photos", metavar="SOURCE", help="folder of images with a COCO file, exported or stored FiftyOne dataset"
    )
    own.add_argument("--labels", type=Path, help="the COCO file, if there are several")
    own.add_argument("--field", help="field of the labels, for a FiftyOne dataset (the first one with masks)")
    own.add_argument("--shots", type=int, default=5, help="references per class (default: %(default)s)")
    own.add_argument("--encoder", default="small", help="name or folder of the DINOv2 (default: %(default)s)")
    own.add_argument("--segmenter", default="small", help="name, file or folder of the SAM2 (default: %(default)s)")
    arguments = parser.parse_args()

    if arguments.photos is not None:
        dataset = own_photos.run(
            arguments.photos,
            labels=arguments.labels,
            field=arguments.field,
            shots=arguments.shots,
            targets=arguments.targets or own_photos.TARGETS,
            models={"encoder": arguments.encoder, "segmenter": arguments.segmenter},
            out=arguments.out,
        )
    elif arguments.coins or arguments.galaxies:
        wanted = [photographs.COINS] * arguments.coins + [photographs.GALAXIES] * arguments.galaxies
        dataset = photographs.run(arguments.out, wanted)
    else:
        dataset = scenes.run(arguments.out, arguments.targets or scenes.TARGETS)
        photographs.run(arguments.out)
    if arguments.app:
        session = fo.launch_app(dataset)
        address = f"http://localhost:{session.server_port}"
        print(f"\nThe App shows {dataset.name!r} at {address}. Press ` there for the operators, Ctrl-C here to stop.")
        session.wait(-1)
    else:
        print(f"\nThe dataset {dataset.name!r} is stored in FiftyOne. Add --app to open it in the App with the plugin.")


if __name__ == "__main__":
    main()
