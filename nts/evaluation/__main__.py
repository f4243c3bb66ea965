"""Command line: run, show and compare evaluation protocols.

    python -m nts.evaluation list
    python -m nts.evaluation show coco-fsod
    python -m nts.evaluation run coco-fsod --data /data/coco --shots 10 --seeds 10 \\
        --encoder facebook/dinov2-large --segmenter sam2_hiera_large --preset paper
    python -m nts.evaluation compare runs/coco-fsod runs/coco-fsod-default
    python -m nts.evaluation predictors custom --references fiftyone:birds/labelled --targets fiftyone:birds/check \\
        --classes wren robin
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ..cache import default_cache
from ..cluster.ray_executor import Pool
from ..datasets.annotated_images import ANNOTATIONS, Annotation, parse_annotations
from ..datasets.coco_files import load_coco_files
from ..datasets.episodes import EPISODES_PER_FOLD
from ..datasets.layouts import LAYOUTS, load
from ..datasets.protocol_data import ProtocolData
from ..datasets.protocols import PROTOCOLS, Protocol, describe, get_protocol
from ..method import PARTS
from ..models import WeightsNotFound, load_encoder, load_segmenter
from ..presets import PRESETS, Preset, get_preset
from ..references import KINDS
from ..utils.devices import PRECISIONS, resolve_precision
from ..utils.run_folder import differing_settings
from ..vrp.loading import load_reference_prompt
from .comparison import compare_runs
from .markdown import comparison_markdown, table
from .predictor_run import compare_predictors
from .predictors import PREDICTORS, TRAINING_FREE
from .protocol_run import UNITS_PER_PART, Settings
from .run_folder import read_config
from .runner import run

_FIFTYONE = "fiftyone:"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. Errors of the user are printed as one message, without a traceback."""
    args = _parser().parse_args(arguments)
    try:
        args.command(args)
    except (ValueError, WeightsNotFound) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: run the same command again to resume")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m nts.evaluation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("list", help="list the protocols").set_defaults(command=_list)
    show = commands.add_parser("show", help="describe a protocol, with its published figures")
    show.add_argument("protocol", choices=list(PROTOCOLS))
    show.set_defaults(command=_show)

    evaluate = commands.add_parser("run", help="run a protocol, or resume an interrupted run")
    evaluate.set_defaults(command=_run)
    evaluate.add_argument("protocol", choices=list(PROTOCOLS))
    evaluate.add_argument("--data", type=Path, help="folder of the data set; `show` describes its layout")
    evaluate.add_argument("--out", type=Path, help="folder of the run (runs/<protocol>)")
    evaluate.add_argument("--shots", type=int, nargs="+", help="references per class (all published numbers)")
    seeds = evaluate.add_mutually_exclusive_group()
    seeds.add_argument("--seeds", type=int, metavar="N", help="the first N published seeds (all)")
    seeds.add_argument("--seed", type=int, nargs="+", help="these seeds")
    evaluate.add_argument("--encoder", default="small", help="name, or folder of a DINOv2 or DINOv3")
    evaluate.add_argument("--segmenter", default="small", help="name, repository on the hub, file or folder of a SAM2")
    evaluate.add_argument("--preset", choices=list(PRESETS), help="(paper; of your own data: default)")
    evaluate.add_argument(
        "--ablate", nargs="+", default=[], metavar="PART", help=f"parts of the preset as published: {', '.join(PARTS)}"
    )
    evaluate.add_argument("--points", type=int, help="points per side of the grid of prompts (the segmenter's own)")
    evaluate.add_argument("--device", default="auto")
    evaluate.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="(the preset's own; paper: float32, as published)"
    )
    evaluate.add_argument("--limit", type=int, help="evaluate this many images, or episodes, only")
    evaluate.add_argument("--save-predictions", action="store_true", help="write the COCO results of every draw")
    evaluate.add_argument(
        "--images-per-part",
        type=int,
        default=UNITS_PER_PART,
        help="images per part; an interruption loses one part (%(default)s)",
    )
    evaluate.add_argument("--no-cache", action="store_true", help="run the models on every image")
    evaluate.add_argument("--edition", help="year of COCO, if not the published one")
    negatives = evaluate.add_argument_group("negatives, for presets that use them")
    negatives.add_argument(
        "--complete-labels",
        action="store_true",
        help="every object of the evaluated classes is annotated in the reference images",
    )
    negatives.add_argument("--background", type=Path, metavar="FOLDER", help="images that show none of the classes")
    episodes = evaluate.add_argument_group("episodes (COCO-20i, PASCAL-5i)")
    episodes.add_argument("--episodes", type=int, default=EPISODES_PER_FOLD, help="episodes per list (%(default)s)")
    episodes.add_argument(
        "--threshold", type=float, help="least score that is painted, or least prior (the predictor's default)"
    )
    episodes.add_argument("--predictor", choices=PREDICTORS, default=TRAINING_FREE, help="(%(default)s)")
    episodes.add_argument("--prompt", help="trained reference prompt of the vrp-… predictors: 'small', or a file")
    episodes.add_argument("--kind", choices=KINDS, default="mask", help="annotation of the references (%(default)s)")
    episodes.add_argument("--promoted", action="store_true", help="let SAM2 predict masks from weaker annotations")
    episodes.add_argument("--side", type=int, help="compare masks at this many pixels squared (the size of the image)")
    cluster = evaluate.add_argument_group("many machines (docs/cluster.md)")
    cluster.add_argument(
        "--ray", action="store_true", help="evaluate on the Ray cluster of RAY_ADDRESS, or on Ray on this machine"
    )
    cluster.add_argument("--actors", type=int, metavar="N", help="workers (as many as there is room for)")
    cluster.add_argument(
        "--gpus-per-actor",
        type=float,
        metavar="F",
        help="GPUs of each worker; a fraction shares one (1 where the cluster has any, else 0)",
    )
    _add_own_data(evaluate)

    predictors = commands.add_parser(
        "predictors", help="compare all predictors: novel and base classes, all kinds of annotations"
    )
    predictors.set_defaults(command=_predictors)
    predictors.add_argument("protocol", choices=list(PROTOCOLS))
    predictors.add_argument("--data", type=Path, help="folder of the data set; `show` describes its layout")
    predictors.add_argument(
        "--out", type=Path, help="folder of the table and the episodes (runs/predictors-<protocol>)"
    )
    predictors.add_argument("--shots", type=int, nargs="+", default=[1, 5])
    predictors.add_argument("--annotations", nargs="+", metavar="KIND", help='such as "box" or "box promoted" (all)')
    predictors.add_argument("--episodes", type=int, default=200, help="episodes per list (%(default)s)")
    predictors.add_argument(
        "--validation-episodes", type=int, default=50, help="episodes to choose thresholds by (%(default)s)"
    )
    predictors.add_argument("--seed", type=int, default=0, help="seed of all draws")
    predictors.add_argument(
        "--side", type=int, help="compare masks at this many pixels squared (the size of the image)"
    )
    predictors.add_argument("--encoder", default="small", help="name, or folder of a DINOv2 or DINOv3")
    predictors.add_argument(
        "--segmenter", default="small", help="name, repository on the hub, file or folder of a SAM2"
    )
    predictors.add_argument("--prompt", help="trained reference prompt, for the rows that need one: 'small', or a file")
    predictors.add_argument("--preset", choices=list(PRESETS), default="default")
    predictors.add_argument("--points", type=int, help="points per side of the grid of prompts (the segmenter's own)")
    predictors.add_argument("--device", default="auto")
    predictors.add_argument(
        "--precision", choices=PRECISIONS, default="auto", help="(the preset's own; paper: float32, as published)"
    )
    predictors.add_argument("--edition", help="year of COCO, if not the published one")
    _add_own_data(predictors)

    comparison = commands.add_parser("compare", help="compare two runs on the same images, with intervals")
    comparison.set_defaults(command=_compare)
    comparison.add_argument("a", type=Path, help="folder of a run")
    comparison.add_argument("b", type=Path, help="folder of another run")
    comparison.add_argument("--figures", nargs="+", default=["ap", "ap50", "ap75"], help="(%(default)s)")
    comparison.add_argument("--draws", type=int, default=1000, help="samples of images (%(default)s)")
    comparison.add_argument("--shots", type=int, nargs="+", help="only these (all that both have)")
    comparison.add_argument("--seed", type=int, nargs="+", help="only these (all that both have)")
    return parser


def _add_own_data(parser: argparse.ArgumentParser) -> None:
    own = parser.add_argument_group("your own data (custom)")
    own.add_argument("--references", help="COCO .json file, or fiftyone:<dataset> or fiftyone:<dataset>/<saved view>")
    own.add_argument("--targets", help="the same")
    own.add_argument("--label-field", default="ground_truth", help="of FiftyOne's labels (%(default)s)")
    own.add_argument(
        "--classes", nargs="+", help="evaluate these (all that have a reference); of `predictors` the novel ones"
    )
    own.add_argument("--crowds-as-objects", action="store_true", help="ignore iscrowd: count crowds as objects")


def _list(args: argparse.Namespace) -> None:
    rows = [
        [protocol.name, protocol.title, protocol.headline, ", ".join(map(str, protocol.shots)), len(protocol.seeds)]
        for protocol in PROTOCOLS.values()
    ]
    print(table(["protocol", "", "headline", "shots", "seeds"], rows, "lllll"))


def _show(args: argparse.Namespace) -> None:
    protocol = get_protocol(args.protocol)
    print(describe(protocol))
    if protocol.layout in LAYOUTS:
        print(f"--data is {LAYOUTS[protocol.layout]}")
    else:
        print(
            "--references and --targets are COCO .json files; their file names are relative to --data, or to the file"
        )


def _run(args: argparse.Namespace) -> None:
    protocol = get_protocol(args.protocol)
    shots = tuple(args.shots or protocol.shots)
    if args.seeds is not None and not 1 <= args.seeds <= len(protocol.seeds):
        raise ValueError(f"{protocol.name} has {len(protocol.seeds)} published seeds, not {args.seeds}")
    seeds = tuple(args.seed) if args.seed else protocol.seeds[: args.seeds]
    preset, background = _preset(args, protocol), _images_of(args.background)
    pool = _pool(args)
    precision = preset.precision_for(args.precision)
    data = _data(args, protocol)
    encoder = load_encoder(args.encoder, args.device, precision)
    segmenter = load_segmenter(args.segmenter, args.device, precision)
    settings = Settings(
        protocol,
        shots,
        seeds,
        preset,
        precision=str(resolve_precision(precision, encoder.device)).removeprefix("torch."),
        limit=args.limit,
        save_predictions=args.save_predictions,
        units_per_part=args.images_per_part,
        episodes=args.episodes,
        threshold=args.threshold,
        side=args.side,
        predictor=args.predictor,
        prompt=load_reference_prompt(args.prompt) if args.prompt else None,
        annotation=Annotation(args.kind, args.promoted),
        complete_labels=args.complete_labels,
        background=background,
    )
    cache = None if args.no_cache else default_cache()
    run(settings, data, encoder, segmenter, args.out or Path("runs") / protocol.name, cache=cache, pool=pool)


def _pool(args: argparse.Namespace) -> Pool | None:
    """Workers that the arguments ask for."""
    if args.ray:
        return Pool(args.actors, gpus=args.gpus_per_actor)
    if args.actors is not None or args.gpus_per_actor is not None:
        raise ValueError("--actors and --gpus-per-actor are about the workers of a cluster: add --ray")
    return None


def _predictors(args: argparse.Namespace) -> None:
    protocol = get_protocol(args.protocol)
    preset = get_preset(args.preset)
    preset = replace(preset, proposals=replace(preset.proposals, points_per_side=args.points))
    annotations = parse_annotations(args.annotations) if args.annotations else ANNOTATIONS
    data = _data(args, protocol)
    precision = preset.precision_for(args.precision)
    encoder = load_encoder(args.encoder, args.device, precision)
    segmenter = load_segmenter(args.segmenter, args.device, precision)
    with tqdm(unit="episode") as bar:
        table = compare_predictors(
            data,
            encoder,
            segmenter,
            preset,
            load_reference_prompt(args.prompt) if args.prompt else None,
            shots=args.shots,
            episodes=args.episodes,
            validation_episodes=args.validation_episodes,
            annotations=annotations,
            seed=args.seed,
            side=args.side,
            folder=args.out or Path("runs") / f"predictors-{protocol.name}",
            progress=bar.set_description,
            tick=bar.update,
        )
    print(table.to_markdown())


def _preset(args: argparse.Namespace, protocol: Protocol) -> Preset:
    preset = get_preset(args.preset or ("default" if protocol.name == "custom" else "paper")).without(*args.ablate)
    proposals = replace(preset.proposals, points_per_side=args.points)
    if protocol.task == "semantic":
        return replace(preset, proposals=proposals)
    return replace(
        preset, proposals=proposals, matching=replace(preset.matching, max_instances=protocol.max_detections)
    )


def _images_of(folder: Path | None) -> tuple[Path, ...]:
    """Image files of a folder and of the folders in it, in alphabetical order.

    Raises:
        ValueError: if there are none.
    """
    if folder is None:
        return ()
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in Image.registered_extensions())
    if not files:
        raise ValueError(f"--background: {folder} is no folder with images")
    return tuple(files)


def _data(args: argparse.Namespace, protocol: Protocol) -> ProtocolData:
    if protocol.name == "custom":
        if not args.references or not args.targets:
            raise ValueError("custom needs --references and --targets")
        if args.references.startswith(_FIFTYONE) and args.targets.startswith(_FIFTYONE):
            return _fiftyone_data(args)
        if _FIFTYONE in (args.references[: len(_FIFTYONE)], args.targets[: len(_FIFTYONE)]):
            raise ValueError("--references and --targets must both be COCO files, or both of FiftyOne")
        return load_coco_files(
            args.references,
            args.targets,
            args.data,
            classes=args.classes,
            crowds_as_objects=args.crowds_as_objects,
        )
    if args.data is None:
        raise ValueError(f"--data is needed: {LAYOUTS[protocol.layout]}")
    return load(protocol, args.data, edition=args.edition, classes=args.classes)


def _fiftyone_data(args: argparse.Namespace) -> ProtocolData:
    # Everything else here works without FiftyOne.
    from ..fiftyone_adapter.importing import custom_data, view_of

    references, targets = (view_of(source.removeprefix(_FIFTYONE)) for source in (args.references, args.targets))
    crowd = None if args.crowds_as_objects else "iscrowd"
    return custom_data(references, targets, args.label_field, classes=args.classes, crowd=crowd)


def _compare(args: argparse.Namespace) -> None:
    rows = compare_runs(args.a, args.b, figures=args.figures, draws=args.draws, shots=args.shots, seeds=args.seed)
    settings = differing_settings(read_config(args.a), read_config(args.b))
    print(comparison_markdown(str(args.a), str(args.b), rows, settings))


if __name__ == "__main__":
    main()
