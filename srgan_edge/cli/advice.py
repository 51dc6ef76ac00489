"""One line of advice for a command line that cannot be parsed."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from srgan_edge.errors import UsageError, typed

PARSING_ERROR: type[Exception] = typer.BadParameter.__mro__[2]
"""`ClickException`, the base of all parsing errors: click's own, or that of typer's copy of it."""

_LEAVE_OUT = "leave it out: "
_PRECISION = (
    "an engine has its own precision; --fp32 forbids a lower one, "
    "and `srgan-edge export --fp16` builds an FP16 engine"
)
_FFMPEG = f"{_LEAVE_OUT}FFmpeg's libraries are included"
_THREADS = f"{_LEAVE_OUT}threads are chosen for this machine"
_DENOISE = "type --denoise X, from 0 to 1, with -n srgan-real-x4"
_STEPS = "type --set pixel.steps=N"

ADVICE: dict[str, dict[str, str]] = {
    "upscale": {
        **dict.fromkeys(("--fp16", "--half", "--bf16"), _PRECISION),
        **dict.fromkeys(
            ("-g", "--gpu", "--gpu-id", "--gpu_id"), "type --device cuda:N, or --device cpu"
        ),
        "--cuda": "type --device cuda",
        "--cpu": "type --device cpu",
        **dict.fromkeys(
            ("--face_enhance", "--face-enhance"),
            f"{_LEAVE_OUT}faces are upscaled like everything else",
        ),
        **dict.fromkeys(("-d", "-dn", "--denoise_strength", "--denoise-strength"), _DENOISE),
        **dict.fromkeys(("--scale", "--upscale"), "type -s X, or --outscale X"),
        **dict.fromkeys(("-x", "--tta"), "averaging over flips and rotations is not available"),
        **dict.fromkeys(("-j", "--threads"), _THREADS),
        **dict.fromkeys(
            ("-m", "--model_path", "--model-path", "--weights"),
            "type -n FILE; weights of other programs first need: srgan-edge convert FILE.pth",
        ),
        **dict.fromkeys(("--pre_pad", "--pre-pad"), f"{_LEAVE_OUT}edges need no padding here"),
        **dict.fromkeys(
            ("--alpha_upsampler", "--alpha-upsampler"), f"{_LEAVE_OUT}transparency is kept"
        ),
        **dict.fromkeys(
            ("--num_process_per_gpu", "--num-process-per-gpu"),
            f"{_LEAVE_OUT}several tiles at a time: --batch N",
        ),
        **dict.fromkeys(("--ffmpeg_bin", "--extract_frame_first"), _FFMPEG),
        "--fps": f"{_LEAVE_OUT}every frame keeps its time",
        **dict.fromkeys(("-y", "--force"), "type --overwrite"),
        "--format": "type -f EXT (a file type), or --pipe-format NAME with -o -",
    },
    "train": {
        **dict.fromkeys(("--fp16", "--amp", "--half"), "type --precision fp16"),
        "--bf16": "type --precision bf16",
        **dict.fromkeys(("--steps", "--epochs", "--iterations"), _STEPS),
        **dict.fromkeys(("--batch", "--batch-size", "-b"), "type --set data.batch=N"),
        **dict.fromkeys(("--lr", "--learning-rate"), "type --set pixel.learning_rate=X"),
        "--resume": f"{_LEAVE_OUT}the same command resumes its run",
        **dict.fromkeys(("-n", "--model"), "type --recipe NAME, or --init NAME for its weights"),
        **dict.fromkeys(("-g", "--gpu", "--gpu-id"), "type --device cuda:N"),
    },
    "export": {
        "--half": "type --fp16",
        "--fp32": "type --onnx, which is FP32; engines are FP16 or BF16",
        "--int8": "type: srgan-edge quantize MODEL --data IMAGES/, and export its result",
        **dict.fromkeys(("--trt", "--engine"), "type --tensorrt"),
        **dict.fromkeys(("-n", "--model"), "the model needs no option: srgan-edge export NAME"),
        **dict.fromkeys(
            ("-f", "--format"), "type --onnx, --tensorrt, --rtx, --openvino, --ncnn or --triton DIR"
        ),
        "--imgsz": "type --shape NxHxW, or --dynamic MIN,OPT,MAX",
    },
}
"""Options of well-known programs, and what to type instead, by command."""


def meant(arguments: Sequence[str], commands: Sequence[str], path: str) -> UsageError:
    """The error for arguments that begin with no command."""
    first = arguments[0]
    top = "upscale" in commands
    if top and (Path(first).exists() or Path(first).suffix or first == "-"):
        return UsageError(
            f"{first!r} is no command; type: {typed(['srgan-edge', 'upscale', *arguments])}"
        )
    if near := difflib.get_close_matches(first, commands, n=1):
        corrected = typed([*path.split(), near[0], *arguments[1:]])
        return UsageError(f"no command {first!r}; did you mean: {corrected}")
    return UsageError(f"no command {first!r}; possible: {', '.join(commands)}")


def one_line(error: Any, arguments: Sequence[str]) -> UsageError:  # noqa: ANN401 - a PARSING_ERROR
    """A parsing error in one line, with what to type.

    Args:
        arguments: what was typed after the program's name.
    """
    context = error.ctx if getattr(error, "ctx", None) else None
    path = context.command_path if context else "srgan-edge"
    if hasattr(error, "possibilities"):
        return _no_option(error.option_name, error.possibilities or [], context, arguments, path)
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message.replace("Value error, ", "").replace("(s)", "s")
    return UsageError(f"{message[:1].lower()}{message[1:]}; type: {path} --help")


def _no_option(
    option: str,
    possibilities: Sequence[str],
    context: Any,  # noqa: ANN401 - click's, or typer's own copy
    arguments: Sequence[str],
    path: str,
) -> UsageError:
    if context is None or context.parent is None:
        upscaling = context.command.get_command(context, "upscale") if context else None
        options = _options_of(upscaling) if upscaling else {}
        if option in options or option in ADVICE["upscale"]:
            line = typed(["srgan-edge", "upscale", *arguments])
            return UsageError(f"{option} comes after a command; type: {line}")
        return UsageError(f"no option {option}; type: {path} --help")
    command = context.info_name
    if advice := ADVICE.get(command, {}).get(option):
        return UsageError(f"{command} has no {option}; {advice}")
    known = _options_of(context.command)
    dashed = option.replace("_", "-")
    near = [dashed] if dashed in known else list(possibilities)
    near = near or difflib.get_close_matches(option, known, n=1)
    hint = f"did you mean {' or '.join(near)}?" if near else f"type: {path} --help"
    return UsageError(f"{command} has no {option}; {hint}")


def _options_of(command: Any) -> dict[str, Any]:  # noqa: ANN401
    return {
        name: parameter
        for parameter in command.params
        for name in (*parameter.opts, *parameter.secondary_opts)
        if parameter.param_type_name == "option"
    }
