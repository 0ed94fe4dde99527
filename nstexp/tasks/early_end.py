"""How `task=stylize` looks at unfinished pictures, in order to stop a bad job of a sweep early."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from nstexp.core.errors import UserError
from nstexp.core.measures import Scorer
from nstexp.methods.base import Judge, Style, Stylizer
from nstexp.outputs import RunFolder
from nstexp.sweeps.pruning import Pruner, Settings, Sweep
from nstexp.tasks.request import Request


def pruner_of(
    settings: Settings | None,
    sweep: Sweep | None,
    method: Stylizer,
    folder: RunFolder,
    request: Request,
    scorer: Scorer | None,
) -> Pruner | None:
    """What decides whether the run stops early; None if no run of this command does.

    Raises:
        UserError: the method makes a picture at once or has too few steps, or no objective is named.
    """
    if settings is None or sweep is None or not settings.every_n_steps:
        return None
    steps = getattr(method, "steps", None)
    if steps is None:
        raise UserError(
            f"prune.every_n_steps={settings.every_n_steps}: method={folder.summary.method} makes a picture at once, "
            "without steps after which it could stop: set prune.every_n_steps=0, or take method=gatys"
        )
    if settings.after_steps >= steps:
        raise UserError(
            f"prune.after_steps={settings.after_steps}: no job could stop, since each has {steps} steps: set it smaller"
        )
    inputs = {"photos": str(request.content), "paintings": str(request.style)}
    return Pruner(settings, sweep, folder, inputs, () if scorer is None else scorer.higher_is_better)


def judge_of(
    pruner: Pruner,
    name: str,
    finished: Callable[[Tensor], Tensor],
    scorer: Scorer | None,
    content: Tensor | None,
    styles: Sequence[Style],
) -> Judge:
    """The function with which a method asks after every step whether to go on, see `Controls.judge`.

    Args:
        pruner: decides.
        name: of the picture.
        finished: applies the finish of the run to a picture of the method.
        scorer: the measures; None: only losses can be objectives.
        content: the photo (3, H, W) in [0, 1]; None for a texture.
        styles: of the picture; their measures need all style pictures.
    """
    some = None if scorer is None else scorer.only(pruner.sweep.names)
    known = all(style.image is not None for style in styles)
    pairs = [(style.picture, style.share) for style in styles] if known else []

    def judge(step: int, losses: Mapping[str, float], picture: Callable[[], Tensor]) -> str | None:
        return pruner.reason(
            name, step, losses, lambda: {} if some is None else some(finished(picture())[0], content, pairs)
        )

    return judge
