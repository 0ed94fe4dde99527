"""Trials of mistyped commands, and of correct commands in unusual environments."""

import os
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from hostile.files import CLIP, TRAINING, clip, pictures
from hostile.pictures import photo
from hostile.trials import INSTANT, SMALL, Check, Outcome, Trial, both, either, made, record, refused

SMOKE = ("experiment=smoke_gatys", "picture_every_n_steps=0", "method.max_steps=2")
# File names with characters that have a meaning for a shell, Hydra's grammar, YAML or a terminal.
NAMES = (
    "photo (1).jpg", "Zürich.jpg", "写真.jpg", "it's.jpg", "#1.jpg", "a[1].jpg", "IMG&2.jpg", "a=b.jpg", "$5.jpg",
    "50%.jpg", "a;b.jpg", "a:b.jpg", "{x}.jpg", '"quoted".jpg', "back\\slash.jpg", " leading.jpg", "trailing.jpg ",
    "2024_05", "1e3", "1_000", "true", "None", "nan", ".5", "0x10", "1:30", "a!b.jpg", "a*b.jpg", "a?b.jpg", "a|b.jpg",
    "a<b>.jpg", "a`b.jpg", "~tilde.jpg", "@at.jpg", "a+b.jpg", "+plus.jpg", "a\tb.jpg", "a\nb.jpg", "\x1b[31mred.jpg",
    "ééé.jpg", "🙂.jpg", "${seed}.jpg", "a$(b).jpg", "(.jpg", "a).jpg", "'.jpg", "a..b.jpg", "x" * 200 + ".jpg",
)  # fmt: skip


def trials() -> Iterator[Trial]:
    """Yield the trials of commands."""
    yield from _names()
    yield from _values()
    yield from _keys()
    yield from _composition()
    yield from _overwriting()
    yield from _environments()
    yield from _streams()
    yield from _sweeps()


def user(folder: Path) -> None:
    """Create the files of a user: a photo, a painting, and a file that no command may touch."""
    photo().save(folder / "photo.jpg")
    photo(seed=2).save(folder / "painting.jpg")
    (folder / "notes.txt").write_text("notes\n")


def _names() -> Iterator[Trial]:
    """Yield trials of unusual file names, and of unusual ways to give them."""
    for name in NAMES:

        def prepare(folder: Path, name=name) -> None:
            photo().save(folder / name, "JPEG")

        yield Trial("names", f"content={name!r}", [*INSTANT, f"content={name}"], made(), prepare)

    def named(outcome: Outcome) -> str | None:
        there = (outcome.folder / "out (1) é" / "output.png").is_file()
        return None if there else "the result is in another run folder"

    for words, check in {
        ("content=photo.jpg", "run_dir=out (1) é"): made(named),
        ("content=photo.jpg", "output=out (1), é.png"): made(_is_there("out (1), é.png")),
        ("content=photo.jpg", "output=it's [1].png"): made(_is_there("it's [1].png")),
        ("content=photo.jpg", "output=2024_05.png"): made(_is_there("2024_05.png")),
        ("content=[photo.jpg,painting.jpg]",): made(_is_there("photo.png", "painting.png")),
        ("content=~/photo.jpg",): made(),
        ("content=${oc.env:HOME}/photo.jpg",): made(),
        ("content='\"photo.jpg\"'",): either(made(), refused("content")),
        ('content="photo.jpg"',): made(),
        ("content=./photo.jpg",): made(),
        ("photo.jpg",): either(made(), refused("content=photo.jpg")),
        ("--content", "photo.jpg"): either(made(), refused("content=photo.jpg")),
        ("--content=photo.jpg",): either(made(), refused("content=photo.jpg")),
        ("content", "photo.jpg"): either(made(), refused("content=")),
        ("content", "=", "photo.jpg"): either(made(), refused("content=")),
        ("content=phto.jpg",): refused("phto.jpg"),
        ("content=photo (9).jpg",): refused("photo (9).jpg"),
        ("content=[photo.jpg,nope (1).jpg]",): refused("nope (1).jpg"),
        ("content=sample:astronaud",): refused("sample:astronau"),
        ("content=",): refused("content"),
        ("content=null",): refused("content"),
    }.items():
        yield Trial("names", " ".join(words), [*INSTANT, *words], check, user)
    words = ["method=adain", *SMALL, "photo.jpg", "painting.jpg"]
    yield Trial("names", "photo.jpg painting.jpg", words, either(made(), refused("content=photo.jpg")), user)

    def not_utf8(folder: Path) -> None:
        (folder / "photos").mkdir()
        photo().save(folder / "photos" / "one.jpg")
        photo().save(os.path.join(os.fsencode(folder), b"photos", b"caf\xe9.jpg").decode("utf-8", "surrogateescape"))

    def both_made(outcome: Outcome) -> str | None:
        assert outcome.result is not None
        return None if (outcome.result / "one.png").exists() else "the other picture was not made"

    check = made(both_made)
    yield Trial("names", "a name in Latin-1 in a folder", [*INSTANT, "content=photos"], check, not_utf8)


def _is_there(*names: str) -> Check:
    """A check that files with these names exist."""

    def check(outcome: Outcome) -> str | None:
        there = {Path(name).name for name in outcome.after}
        return next((f"{name} is not there" for name in names if name not in there), None)

    return check


def _values() -> Iterator[Trial]:
    """Yield trials of wrong values; the message must name the key."""
    values: dict[str, tuple[str, ...]] = {
        "image_px": ("0", "-1", "nan", "abc", "1000000", "1.5", "[64]", "true", "{}"),
        "seed": ("-1", "abc", "0.5", "null", "1e400", "[1,2]"),
        "color": ("lumniance", "1", "null", "[a]"),
        "color_strength": ("-1", "2", "nan", "abc", "null"),
        "precision": ("fp8", "16", "null"),
        "measure": ("maybe", "2", "[true]"),
        "style_weights": ("[1,2]", "[-1]", "abc", "[nan]", "[0]"),
        "style_combine": ("sum", "null"),
        "max_input_megapixels": ("0", "-1", "abc", "nan"),
        "log_every_n_steps": ("0", "-1", "x", "1.5"),
        "picture_every_n_steps": ("-1", "x"),
        "weights.beta": ("nan", "abc", "inf", "[1]"),
        "weights.tv": ("-1", "nan"),
        "layers.content": ("[relu9_9]", "[3]"),
        "layers.style": ("[]", "[relu1_1,nope]", "7"),
        "method.max_steps": ("-1", "0.5", "abc", "null", "nan"),
        "method.init": ("nois", "missing.png"),
        "method.noise_std": ("-1", "nan", "abc"),
        "method.optimizer": ("lbgfs", "null"),
        "method.optimizers.lbfgs.history_size": ("-1", "abc"),
        "method.lr_decay": ("nan", "-1", "abc"),
        "method.levels": ("0", "-3", "x"),
        "method.margin_px": ("-1", "100000", "abc"),
        "method.style_scale": ("0", "-1", "1e9", "nan", "abc"),
        "method.clamp": ("never",),
        "method.guide": ("insid",),
        "run_dir": ("", "null", "[a,b]"),
        "objective": ("nosuch",),
        "logger": ("wanbd", "3"),
        "backbone": ("vgg91",),
        "backbone.pool": ("median",),
        "trainer.accelerator": ("quantum",),
        "trainer.devices": ("-7", "abc"),
        "metrics.longer_side_px": ("-4", "abc"),
    }
    for key, wrong in values.items():
        for value in wrong:
            leaves = ("runs",) if key == "objective" else ()
            yield Trial(
                "values", f"{key}={value}", [*SMOKE, f"{key}={value}"], refused(key.rpartition(".")[2], leaves=leaves)
            )
    adam = [*SMOKE, "method.optimizer=adam"]
    for value in ("nan", "abc", "-1", "inf"):
        words = [*adam, f"method.optimizers.adam.lr={value}"]
        yield Trial("values", f"adam.lr={value}", words, refused("lr"))
    for word in ("alpha=2", "alpha=nan", "style_px=0", "tile_px=-1", "eps=-1", "decoder=nope.pth"):
        words = ["method=adain", *SMALL, f"method.{word}"]
        yield Trial("values", f"adain {word}", words, refused(word.partition("=")[0]))
    for word in ("video.stabilize=2", "video.stabilize=nan", "video.fps=0", "video.quality=-99", "video.codec=h999",
                 "video.start=soon", "video.fade=[2]", "video.flow=none", "video.reader=vlc"):  # fmt: skip
        words = [*CLIP, "content=clip.mp4", word]
        yield Trial(
            "values", word, words, refused(word[6:].partition("=")[0]), lambda folder: clip(folder / "clip.mp4")
        )
    for word in ("data.batch_size=0", "data.crop_px=33", "data.crop_px=-8", "data.resize_px=4", "data.workers=-1",
                 "data.val_pairs=-1", "data.content=nowhere", "data.retries=-1", "task.checkpoint_every_n_steps=-1",
                 "method.schedule=steep", "method.max_steps=-4"):  # fmt: skip
        yield Trial("values", word, [*TRAINING, word], refused(word.partition("=")[0].rpartition(".")[2]), pictures)


def _keys() -> Iterator[Trial]:
    """Yield trials of keys that do not exist; the message must suggest the right key."""
    for word, meant in {
        "image_pxx=3": "image_px", "+image_pxx=3": "image_px", "++image_pxx=3": "image_px", "sead=1": "seed",
        "contnet=a.jpg": "content", "+style_weigths=[1]": "style_weights", "colour=none": "color",
        "rundir=x": "run_dir",
        "weights.betta=3": "weights.beta", "+weights.betta=3": "weights.beta", "++weights.aplha=3": "weights.alpha",
        "method.max_step=3": "max_steps", "+method.max_step=3": "max_steps",
        "+method.optimizers.lbfgs.histroy=5": "history_size", "+method.optimizers.lbfgs.histroy_size=5": "history_size",
        "method.optimizers.adm.lr=1": "adam", "+trainer.acelerator=cpu": "accelerator", "+task.foo=1": "foo",
        "+method.foo=1": "foo", "loss.gramm.form=gatys": "gram", "+loss.gram.fom=gatys": "form",
        "layers.contnt=[relu4_2]": "content", "metod=adain": "method", "method=adian": "adain",
        "backbon=vgg19": "backbone", "experiment=smoke_gaty": "smoke_gatys", "task=vidoe": "video",
        "task=stylise": "stylize", "loss=[content,gramm]": "gram", "layers=style_fist1": "style_first1",
        "metrics.names=[ssmi]": "ssim", "metrics=[ssmi]": "ssim", "optimizer=adam": "method.optimizer",
        "max_steps=3": "method.max_steps", "beta=3": "weights.beta", "hydra.sweep.dirr=x": "dir",
        "weights.histogram=3": "histogram", "~content": "content", "~seed": "seed", "~weights.betta": "beta",
    }.items():  # fmt: skip
        yield Trial("keys", word, [*SMOKE, word], refused(meant))
    training = ["method=cin", "task=train", *SMALL, "data.content=photos", "style=painting.png"]
    words = [*training, "+generator.widht=2"]
    yield Trial("keys", "+generator.widht=2", words, refused("width"), pictures_and_painting)
    yield Trial("keys", "+mine.sigma=3", [*SMOKE, "+mine.sigma=3"], made())
    yield Trial("keys", "seed=${mine.s}", [*SMOKE, "+mine.s=3", "seed=${mine.s}"], made())


def pictures_and_painting(folder: Path) -> None:
    """Create photos to train with, and one painting."""
    pictures(folder)
    photo(seed=9).save(folder / "painting.png")


def _composition() -> Iterator[Trial]:
    """Yield trials of words with mistakes in Hydra's grammar, in its options, or in interpolations."""
    for words, says in {
        ("loss=[content,gram",): "loss",
        ("loss=content,gram]",): "loss",
        ("content='photo.jpg",): "content",
        ("method.optimizers={a:1",): "optimizers",
        ("=3",): "=3",
        ("seed==3",): "seed",
        ("seed",): "seed",
        ("content=${nosuch}",): "nosuch",
        ("content=${oc.env:NOSUCH_VARIABLE}",): "NOSUCH_VARIABLE",
        ("content=${style}", "style=${content}"): "content",
        ("seed=${seed}",): "seed",
        ("content=${",): "content",
        ("seed=${eval:1}",): "eval",
        ("weights.beta=1,2",): "-m",
        ("seed=range(3)",): "-m",
        ("--multirn",): "multirn",
        ("--cgf", "job"): "cgf",
        ("--cfg",): "cfg",
        ("--cfg", "everything"): "cfg",
        ("-x",): "-x",
        ("--config-dir", "nowhere"): "nowhere",
        ("--config-name", "nowhere"): "nowhere",
        ("--config-path", "/nowhere"): "nowhere",
        ("hydra/launcher=joblib",): "-m",
        ("hydra/launcher=jobblib",): "joblib",
        ("hydra/sweeper=bayes",): "sweeper",
        ("hydra.run.dir=",): "dir",
        ("method=",): "method",
        ("method=[gatys,adain]",): "task=evaluate",
        ("task=train",): "data.content",
        ("task=video",): "content",
    }.items():
        yield Trial("composition", " ".join(words), [*SMOKE, *words], refused(says))
    yield Trial("composition", "no data for smoke_adain", ["experiment=smoke_adain"], refused("data.content"))
    yield Trial(
        "composition", "no data for smoke_cin", ["experiment=smoke_cin", "style=met:436535"], refused("data.content")
    )
    wants = {
        ("--help",): "content",
        ("--cfg", "job"): "image_px",
        ("--info", "defaults"): "gatys",
        ("samples",): "astronaut",
    }
    for words, says in wants.items():
        yield Trial("composition", " ".join(words), words, _prints(says))


def _prints(says: str) -> Check:
    """A check that a command prints this text and exits with code 0."""

    def check(outcome: Outcome) -> str | None:
        if outcome.code != 0:
            return f"exit code {outcome.code}"
        return None if says in outcome.out else f"{says} is not printed"

    return check


def _overwriting() -> Iterator[Trial]:
    """Yield trials of run folders and outputs that hold files of the user."""

    def with_folder(*more: str) -> Callable[[Path], None]:
        def prepare(folder: Path) -> None:
            user(folder)
            (folder / "mine").mkdir()
            photo().save(folder / "mine" / "holiday.png")
            for name in more:
                path = folder / "mine" / name
                path.parent.mkdir(parents=True, exist_ok=True)
                if name.endswith((".png", ".jpg")):
                    photo(seed=4).save(path)
                elif name.endswith("/"):
                    path.mkdir()
                else:
                    path.write_text("the user's\n")

        return prepare

    plain = with_folder()
    for words, check in {
        ("content=mine", "run_dir=mine"): refused("run_dir"),
        ("content=mine", "output=mine"): refused("output"),
        ("content=mine/holiday.png", "output=mine/holiday.png"): refused("output"),
        ("content=mine/holiday.png", "output=mine/../mine/holiday.png"): refused("output"),
        ("content=photo.jpg", "run_dir=mine", "output=photo.jpg"): refused("output"),
        ("content=photo.jpg", "run_dir=photo.jpg"): refused("run_dir"),
        ("content=photo.jpg", "run_dir=notes.txt/x"): refused("run_dir"),
        ("content=photo.jpg", "output=notes.txt/x.png"): refused("output"),
        ("content=photo.jpg", "output=notes.txt"): refused("output"),
        ("content=photo.jpg", "output=out.xyz"): refused("output"),
        ("content=photo.jpg", "output=/dev/null"): refused("output"),
        ("content=nope.jpg", "run_dir=."): refused("nope.jpg"),
        ("content=nope.jpg", "run_dir=mine"): refused("nope.jpg"),
        ("content=nope.jpg", "run_dir=new/deep"): refused("nope.jpg"),
        ("content=photo.jpg", "style=nope", "run_dir=."): refused("style"),
        ("content=photo.jpg", "method.model=nope.safetensors", "run_dir=mine"): refused("model"),
        ("content=notes.txt", "run_dir=mine"): refused("notes.txt"),
        ("content=notes.txt", "run_dir=."): refused("notes.txt"),
        ("content=photo.jpg", "run_dir=mine"): made(),
    }.items():
        yield Trial("overwriting", " ".join(words), [*INSTANT, *words], check, plain)
    for name in ("output.png", "config.yaml", "summary.json", "metrics.json", "losses.csv", "nstexp.log",
                 ".hydra/config.yaml", ".hydra/notes.txt", "images/holiday_00001.jpg", "checkpoints/last.ckpt",
                 "output.png/"):  # fmt: skip
        words = [*SMOKE, "content=photo.jpg", "run_dir=mine"]
        check = either(refused("run_dir"), made())
        yield Trial("overwriting", f"{name} of the user's in run_dir", words, check, with_folder(name))
        words = [*SMOKE, "content=nope.jpg", "run_dir=mine"]
        yield Trial("overwriting", f"refused beside {name}", words, refused("nope.jpg"), with_folder(name))
        words = ["method=cin", "style=nosuchstyle", *SMALL, "content=photo.jpg", "run_dir=mine"]
        yield Trial("overwriting", f"refused late beside {name}", words, refused(), with_folder(name))

    words = [*INSTANT, "content=photo.jpg", "output=mine/holiday.png"]
    check = made(says=["holiday.png"])
    yield Trial("overwriting", "output= over a picture is said", words, check, plain, may_change=["mine/holiday.png"])

    def read_only(folder: Path) -> None:
        plain(folder)
        (folder / "mine" / "holiday.png").chmod(0o444)

    yield Trial("overwriting", "output= is read-only", words, refused("output"), read_only)

    def link(folder: Path) -> None:
        user(folder)
        (folder / "same.jpg").hardlink_to(folder / "photo.jpg")
        (folder / "link.jpg").symlink_to("photo.jpg")

    for name in ("same.jpg", "link.jpg"):
        words = [*INSTANT, "content=photo.jpg", f"output={name}"]
        yield Trial("overwriting", f"output={name}, the photo under another name", words, refused("output"), link)

    def clips(folder: Path) -> None:
        clip(folder / "clip.mp4")
        clip(folder / "done.mp4", count=6)

    for words, check in {
        ("output=clip.mp4",): refused("output"),
        ("run_dir=.", "output=clip.mp4"): refused("output"),
    }.items():
        yield Trial("overwriting", f"clip {' '.join(words)}", [*CLIP, "content=clip.mp4", *words], check, clips)
    yield Trial("overwriting", "a clip over a clip", [*CLIP, "content=clip.mp4", "output=done.mp4"],
                either(made(says=["done.mp4"]), refused("output")), clips, may_change=["done.mp4"])  # fmt: skip

    def collide(folder: Path) -> None:
        (folder / "photos").mkdir()
        photo().save(folder / "photos" / "a.jpg")
        photo(seed=1).save(folder / "photos" / "a.png")

    two = either(made(lambda o: None if len(list(o.result.glob("*.png"))) == 2 else "one is lost"), refused("content"))
    yield Trial("overwriting", "a.jpg and a.png", [*INSTANT, "content=photos"], two, collide)
    yield Trial("overwriting", "a.jpg and a.png into their folder", [*INSTANT, "content=photos", "run_dir=photos"],
                refused("run_dir"), collide)  # fmt: skip


def _environments() -> Iterator[Trial]:
    """Yield trials of environment variables that other programs leave behind; a single process must work anyway."""

    def recorded(outcome: Outcome) -> str | None:
        return None if record(outcome).get("status") == "completed" else "there is no record of a completed run"

    for env in (
        {"SLURM_NTASKS": "8"}, {"SLURM_PROCID": "3"}, {"LOCAL_RANK": "1"}, {"RANK": "2"}, {"WORLD_SIZE": "4"},
        {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "3", "SLURM_LOCALID": "3", "SLURM_NODEID": "1",
         "SLURM_JOB_NAME": "train"},
        {"SLURM_JOB_NAME": "bash", "SLURM_NTASKS": "4"}, {"LOCAL_RANK": "abc"}, {"RANK": ""}, {"NODE_RANK": "2"},
        {"GROUP_RANK": "1"}, {"LSB_JOBID": "4", "JSM_NAMESPACE_RANK": "3"}, {"KUBERNETES_PORT": "1"},
        {"WANDB_DISABLED": "true"}, {"WANDB_MODE": "disabled"}, {"PYTHONOPTIMIZE": "1"},
        {"PYTHONWARNINGS": "error"}, {"TMPDIR": "/nowhere"}, {"HOME": "/nowhere"}, {"XDG_CACHE_HOME": "/nowhere"},
        {"COLUMNS": "10"}, {"TERM": "dumb"}, {"LANG": "C", "LC_ALL": "C"}, {"LC_ALL": "xx_YY.UTF-8"},
        {"OMP_NUM_THREADS": "abc"}, {"CUDA_VISIBLE_DEVICES": "9"},
    ):  # fmt: skip
        name = " ".join(f"{key}={value}" for key, value in env.items())
        yield Trial("environments", name, [*SMOKE, "content=photo.jpg"], made(recorded), user, env=env)
    names = {"WANDB_RUN_ID": "abc123", "WANDB_PROJECT": "mine", "WANDB_RUN_GROUP": "g", "WANDB_NAME": "n"}
    yield Trial(
        "environments", "W&B's names", [*SMOKE, "logger=wandb", "content=photo.jpg"], made(recorded), user, env=names
    )


def _streams() -> Iterator[Trial]:
    """Yield trials of streams that are closed, broken, or of another encoding."""
    run = " ".join(shlex.quote(word) for word in [*INSTANT, "content=photo.jpg", "run_dir=out"])
    done = _is_there("output.png")

    def ended(*codes: int, also: Check = lambda outcome: None) -> Check:
        def check(outcome: Outcome) -> str | None:
            return also(outcome) if outcome.code in codes else f"exit code {outcome.code}: {outcome.err[-200:]!r}"

        return check

    for name, line, check in [
        ("stdout closed", f"$NSTEXP {run} >&-", ended(0, also=done)),
        ("stderr closed", f"$NSTEXP {run} 2>&-", ended(0, also=done)),
        ("both closed", f"$NSTEXP {run} >&- 2>&-", ended(0, also=done)),
        ("stdin closed", f"$NSTEXP {run} <&-", ended(0, also=done)),
        ("all closed", f"$NSTEXP {run} <&- >&- 2>&-", ended(0, also=done)),
        ("a pipe that nobody reads", f"set -o pipefail; $NSTEXP {run} | true", ended(0, also=done)),
        (
            "stderr into a pipe that nobody reads",
            f"set -o pipefail; $NSTEXP {run} 2>&1 >/dev/null | true",
            ended(0, also=done),
        ),
        ("samples | head", "set -o pipefail; $NSTEXP samples | head -1", ended(0)),
        ("samples | true", "set -o pipefail; $NSTEXP samples | true", ended(0)),
        ("--help | head", "set -o pipefail; $NSTEXP --help | head -1", ended(0)),
        ("--cfg job | true", "set -o pipefail; $NSTEXP --cfg job | true", ended(0)),
        ("samples, stdout closed", "$NSTEXP samples >&-", ended(0)),
        ("a refusal, stderr closed", "$NSTEXP content=nope.jpg 2>&-", ended(2)),
        ("stdout full", f"$NSTEXP {run} >/dev/full", ended(0, 1, also=done)),
        ("stderr full", f"$NSTEXP {run} 2>/dev/full", ended(0, 1, also=done)),
    ]:
        yield Trial("streams", name, [], check, user, shell=line)
    for encoding in ("ascii", "cp1252", "cp932", "utf-16"):
        env = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
        yield Trial("streams", f"samples in {encoding}", [], ended(0), shell="$NSTEXP samples >/dev/null", env=env)
        yield Trial("streams", f"--help in {encoding}", [], ended(0), shell="$NSTEXP --help >/dev/null", env=env)

        def prepare(folder: Path) -> None:
            photo().save(folder / "写真 é.jpg")

        line = f"$NSTEXP {' '.join(INSTANT)} 'content=写真 é.jpg' run_dir=out"
        yield Trial("streams", f"a run in {encoding}", [], ended(0, also=done), prepare, shell=line, env=env)


def _sweeps() -> Iterator[Trial]:
    """Yield trials of sweeps with jobs that fail, without jobs, or with unusual folders."""
    sweep = ["-m", *SMOKE, "content=photo.jpg", "hydra.sweep.dir=sweep"]
    page = _is_there("report.html")

    def failed(outcome: Outcome) -> str | None:
        return None if outcome.code == 1 else f"exit code {outcome.code}"

    for name, words, check in [
        ("two values", [*sweep, "seed=1,2"], made(page)),
        ("-m at the end", [*sweep[1:], "seed=1,2", "-m"], made(page)),
        ("--multirun in the middle", ["seed=1,2", "--multirun", *sweep[1:]], made(page)),
        ("range(0,0)", [*sweep, "seed=range(0,0)"], refused("seed")),
        ("range(5,1)", [*sweep, "seed=range(5,1)"], refused("seed")),
        ("range()", [*sweep, "seed=range()"], refused("seed")),
        ("choice()", [*sweep, "seed=choice()"], refused("seed")),
        ("one value twice", [*sweep, "seed=1,1"], made(page)),
        ("a failed job", [*sweep, "seed=1,-1"], both(page, failed)),
        ("all jobs fail", [*sweep, "seed=-1,-2"], failed),
        ("a misspelt key", [*sweep, "sead=1,2"], refused("seed")),
        ("a misspelt option", [*sweep, "method=gatys,adian"], refused("adian")),
        ("subdir with a slash", [*sweep, "seed=1,2", "hydra.sweep.subdir=a/${hydra.job.num}"], made(page)),
        ("subdir of overrides", [*sweep, "seed=1,2", "hydra.sweep.subdir=${hydra.job.override_dirname}"], made(page)),
        ("output= in a sweep", [*sweep, "seed=1,2", "output=x.png"], either(refused("output"), failed)),
        ("run_dir= in a sweep", [*sweep, "seed=1,2", "run_dir=x"], either(refused("run_dir"), failed)),
        ("joblib", [*sweep, "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"], made(page)),
        ("n_jobs=0", [*sweep, "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=0"], refused("n_jobs")),
        ("objective without a number", [*sweep, "seed=1,2", "objective=nosuch"], either(refused("nosuch"), failed)),
        ("a comma in a value", [*sweep, "loss=[content,gram,range],[content,swd,range]"], made(page)),
        ("one value", [*sweep, "seed=1"], made(page)),
        ("interpolation", [*sweep, "seed=1,2", "log_every_n_steps=${seed}"], made(page)),
    ]:  # fmt: skip
        yield Trial("sweeps", name, words, check, user)
    yield Trial("sweeps", "range with python -O", [], refused("-m"), user,
                shell=f"NSTEXP=${{NSTEXP/ -m/ -O -m}}; $NSTEXP {' '.join(SMOKE)} 'seed=range(1,3)'")  # fmt: skip
    training = ["-m", *TRAINING, "hydra.sweep.dir=sweep", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    words = [*training, "data.workers=1", "seed=1,2"]
    yield Trial("sweeps", "trainings under joblib with loaders", words, made(page), pictures)
