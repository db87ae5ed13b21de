"""`distilingua predict`: a model's answers to any number of texts."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.progress import Progress

from distilingua.columns import Encoded
from distilingua.console import quieten
from distilingua.corpora.schema import COLUMNS, cells_of
from distilingua.corpora.sound import of_cell
from distilingua.corpora.tables import Dialect
from distilingua.delivery.model import Delivered, find, known_task
from distilingua.delivery.streams import CHUNK, ENCODING, FROM_PIPE, Chunk, Source, of_file, of_lines, sink
from distilingua.errors import NumberError, UserError, refuse
from distilingua.models.folder import readable, reserved_positions
from distilingua.tasks.delivery import HEADS, task_by_head
from distilingua.tasks.pieces import cut_counts, tell_cut
from distilingua.tasks.task import Task

READ = ("text", "text_pair", "audio", "lang")  # columns that an answer may depend on
LONGEST = 512  # pieces, where neither the model nor its tokenizer says
NAMED = 20  # rows without an answer
SURROGATE = re.compile("[\ud800-\udfff]")  # what stands for bytes that are no UTF-8


def predict(arguments: Sequence[str]) -> None:
    """Answers texts that were typed, lines of the standard input, or rows of a file.

    Raises:
        UserError: a model or a file that cannot be read, columns that are not there, options that do not go together.
    """
    options = parse(arguments)
    model = find(options.model)
    with readable(model.given, model.folder):
        task = known_task(model.settings, model.given) or task_of_head(model)
    columns = columns_of(options, task)
    source = source_of(options, task, columns)
    if options.all and not task.names_classes:
        raise UserError(f"--all: answers of task={task.name} are texts, and not one of several classes. Leave it out.")
    quieten()
    with readable(model.given, model.folder):
        answering = Answering.of(model, task, columns, options)
    named: list[str] = []
    rows = bad = 0
    added = {options.name: "string", "probability": "double", **({"probabilities": "string"} if options.all else {})}
    shown = bool(options.to) and sys.stderr.isatty()  # out of the way of answers
    bar = Progress(console=Console(stderr=True), transient=True, disable=not shown)
    with sink(options.to, source, added) as write, bar:
        for chunk in source.chunks(bar):
            with readable(model.given, model.folder):
                answers = answering(chunk)
            values = zip(*((one.text, one.probability, one.all) for one in answers), strict=True)
            write(chunk, dict(zip(added, values, strict=False)))
            problems = [f"row {rows + n}: {one.problem}" for n, one in enumerate(answers, 1) if one.problem]
            named += problems[: NAMED - len(named)]
            bad += len(problems)
            rows += len(answers)
    report(rows, bad, named)
    tell_cut(model.given, answering.predictor.encoder.task, answering.cut, partial(print, file=sys.stderr))


@dataclass
class Answer:
    """
    Args:
        text: a label, tags, an answer, a translation, a transcript; "" for a row that cannot be read.
        probability: what the model gives it, see `Task.probabilities`; None for such a row.
        all: class -> probability, or one such mapping a word; None where it is not asked for.
        problem: why the row cannot be read; None where it can.
    """

    text: str = ""
    probability: float | None = None
    all: Any = None
    problem: str | None = None


@dataclass
class Answering:
    """From rows to answers: cleaned as in training, in batches of like length, in the order they came.

    Args:
        predictor: the model, see `training.inference.Predictor`; its encoder knows the task and its classes.
        clean: as in training; None reads texts as they are.
        columns: column of the corpus schema -> column of the rows.
        every: whether to give the probability of every class.
        lang: of rows without a column `lang`.
        cut: of all rows so far, see `cut_counts`.
    """

    predictor: Any
    clean: Callable[[str], str] | None
    columns: Mapping[str, str]
    every: bool = False
    lang: str = ""
    cut: Any = (0, 0, 0, 0)

    @classmethod
    def of(cls, model: Delivered, task: Task, columns: Mapping[str, str], options: argparse.Namespace) -> Answering:
        from distilingua.delivery.runtime import predictor_of
        from distilingua.training.inference import device_of

        device = device_of({"accelerator": options.device, "devices": 1})
        lang = options.lang or next(iter(model.settings.get("languages", [])), "")
        clean = None if options.raw else cleaning_of(model.settings)
        return cls(predictor_of(model, task, device), clean, columns, options.all, lang)

    def __call__(self, chunk: Chunk) -> list[Answer]:
        answers = [Answer(problem=problem) for problem in chunk.problems]
        cells = {name: cells_of(chunk.table, column) for name, column in self.columns.items()}
        rows: dict[int, dict[str, str]] = {}
        for n, answer in enumerate(answers):
            if answer.problem is None:
                with noting(answer):
                    rows[n] = self.row({name: cells[name][n] for name in cells})
        encoded = self.encode(rows, answers)
        self.cut = self.cut + cut_counts(Encoded.of(list(encoded.values())))
        while encoded:
            numbers = list(encoded)
            try:
                outputs = self.predictor.answers(Encoded.of(list(encoded.values())), "")
            except NumberError as error:  # of some rows: the others are answered all the same
                for place in error.rows:
                    answers[numbers[place]].problem = "the model's answer to it is no number."
                    del encoded[numbers[place]]
                continue
            for n, output, probability in zip(numbers, outputs.answers, outputs.probabilities, strict=True):
                answers[n] = self.decode(output, probability, rows[n], encoded[n])
            break
        return answers

    def row(self, cells: Mapping[str, Any]) -> dict[str, str]:
        """The cells, by columns of the schema of a corpus, as a row of one.

        Raises:
            UserError: what is wrong with them, in a sentence.
        """
        task = self.predictor.encoder.task
        row = {**dict.fromkeys(COLUMNS, ""), "lang": self.lang}
        for name, column in self.columns.items():
            value = cells[name]
            if value is None and name == "text_pair" and not task.points_into:
                continue  # most texts stand alone
            if value is None or isinstance(value, dict | list | bytes):
                raise UserError(f"its {column!r} is {'missing' if value is None else 'no text'}.")
            row[name] = str(value)
            if SURROGATE.search(row[name]):
                raise UserError(f"its {column!r} is no UTF-8.")
            if name in ("text", "text_pair") and self.clean and name not in task.points_into:
                row[name] = self.clean(row[name])
            if not row[name].strip() and name != "text_pair":
                raise UserError(f"its {column!r} is empty.")
        if "audio" in self.columns:
            row["audio"] = of_cell(row["audio"])
        refuse(task.problem(row))
        return row

    def encode(self, rows: Mapping[int, dict[str, str]], answers: Sequence[Answer]) -> dict[int, Any]:
        """Rows as the model reads them; why some cannot be is noted in their answers."""
        encoder, encoded = self.predictor.encoder, {}
        try:
            return dict(zip(rows, encoder.changed(list(rows.values())), strict=True)) if rows else {}
        except UserError:  # one of them is at fault, and which one it does not say
            for n, row in rows.items():
                with noting(answers[n]):
                    (encoded[n],) = encoder.changed([row])
        return encoded

    def decode(self, output: Any, probability: float, row: Mapping[str, str], encoded: Any) -> Answer:
        task, tokenizer = self.predictor.encoder.task, self.predictor.encoder.tokenizer
        text = task.decode(output, row, encoded, tokenizer)
        shares = every_probability(task, output) if self.every else None
        return Answer(text, probability, shares)


@contextmanager
def noting(answer: Answer) -> Iterator[None]:
    """What is refused is the problem of one row."""
    try:
        yield
    except UserError as error:
        answer.problem = str(error)


def every_probability(task: Task, output: Any) -> Any:
    """Class -> probability; of a task with several positions a list of these, one a word.

    Args:
        output: logits, (positions, classes).
    """
    shares = output.sigmoid() if task.distributed is None else output.softmax(-1)
    each = [dict(zip(task.labels, map(float, row), strict=True)) for row in shares]
    return each if task.points_into else each[0]


EXAMPLES = """\
examples:
  distilingua predict RUN "mach das Licht an" "turn it off"
  sort texts.txt | distilingua predict RUN
  distilingua predict RUN --from texts.csv --column text=remark --to answers.csv
"""


class OneLine(argparse.ArgumentParser):
    """Says what is wrong as other commands do, in a line with the way out."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. Type {self.prog} MODEL [TEXT …]; {self.prog} --help has the options.\n")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = OneLine(
        "distilingua predict",
        description="A model's answers to texts.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of a run, exported folder, ONNX file, or a model of the hub")
    parser.add_argument("texts", nargs="*", default=[], metavar="TEXT", help="a tab separates the texts of a pair")
    parser.add_argument("--from", dest="file", type=Path, metavar="FILE", help=".csv .tsv .jsonl .json .parquet .txt")
    parser.add_argument("--to", type=Path, metavar="FILE", help=".csv .tsv .jsonl .parquet; else the standard output")
    parser.add_argument("--separator", help="between cells of --from: one character, or tab")
    parser.add_argument("--encoding", default="utf-8", help="of --from, as Python names it")
    parser.add_argument("--quoting", choices=("true", "false"), help="whether cells of --from may stand in quotes")
    parser.add_argument("--column", action="append", default=[], metavar="text=NAME", help="where a column stands")
    parser.add_argument("--name", default="answer", help="of the new column")
    parser.add_argument("--all", action="store_true", help="the probability of every class, too")
    parser.add_argument("--raw", action="store_true", help="read texts as they are, not cleaned as in training")
    parser.add_argument("--lang", default="", help="of the texts, for translators of many languages")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu", "mps", "auto"))
    return parser.parse_intermixed_args(arguments)  # options may stand between the model and the texts


def columns_of(options: argparse.Namespace, task: Task) -> dict[str, str]:
    """Column of the corpus schema -> column of the rows, of those that the task reads.

    Raises:
        UserError: a column that the task does not read.
    """
    named = dict(item.partition("=")[::2] for item in options.column)
    reads = [name for name in task.reads if name in READ]
    for name, column in named.items():
        if name not in reads or not column:
            known = ", ".join(reads)
            raise UserError(f"--column {name}={column}: this model reads {known}. Type --column {reads[0]}=NAME.")
    if options.file is None or options.file.suffix.lower() == ".txt":  # lines, of which each may be the path of a sound
        return {name: "text" if name == "audio" else name for name in reads if name != "lang"}
    return {name: named.get(name, name) for name in reads if name != "lang" or name in named}


def source_of(options: argparse.Namespace, task: Task, columns: Mapping[str, str]) -> Source:
    """Where the rows come from; exactly one place.

    Raises:
        UserError: none, or two; a file that is not as stated, or has not these columns.
    """
    if options.file and options.texts:
        raise UserError(f"texts were typed, and --from {options.file} too. Give one of them.")
    pairs = "text_pair" in task.reads
    if options.file:
        stated = any(item.startswith("text_pair=") for item in options.column)
        alone = pairs and not stated and not task.points_into  # most texts have no second one

        def require(names: list[str]) -> None:
            missing = [name for name in columns if columns[name] not in names and not (alone and name == "text_pair")]
            if missing:
                raise UserError(
                    f"--from {options.file} has no column {columns[missing[0]]!r}; it has {', '.join(names)}. Name "
                    f"the right one: --column {missing[0]}=NAME."
                )

        quoting = None if options.quoting is None else options.quoting == "true"
        return of_file(options.file, pairs, Dialect(options.encoding, options.separator, quoting), require)
    if options.texts:
        return of_lines(lambda _: options.texts, pairs, CHUNK)
    if sys.stdin.isatty():
        print("Type a text a line; Ctrl-D ends.", file=sys.stderr)
    sys.stdin.reconfigure(**ENCODING)  # type: ignore[union-attr]
    return of_lines(lambda _: sys.stdin, pairs, 1 if sys.stdin.isatty() else FROM_PIPE)


def cleaning_of(settings: Mapping[str, Any]) -> Callable[[str], str] | None:
    """As in training; None where a model does not say how its texts were cleaned."""
    given = settings.get("cleaning")
    if not given:
        return None
    from distilingua.data.cleaning import Cleaning

    known = {one.name for one in fields(Cleaning)}
    return Cleaning(**{name: value for name, value in given.items() if name in known}).text


def task_of_head(model: Delivered) -> Task:
    """What a model does that says so by its head alone.

    Raises:
        UserError: a head that is not known here, or says too little.
    """
    config = model.config
    architecture = next(iter(config.get("architectures") or []), "")
    kind = task_by_head(architecture, config.get("problem_type"))
    if kind is None:
        raise UserError(
            f"{model.given}: its config.json names the architecture {architecture!r}, which does not say what to ask "
            f"it for. Name a model with one of {', '.join(HEADS)}, or the folder of a run."
        )
    if "audio" in kind.reads:  # whose length is in seconds
        return kind()
    positions = config.get("max_position_embeddings") or LONGEST
    return kind(max_length=min(positions - reserved_positions(config), LONGEST))


def report(rows: int, bad: int, named: Sequence[str]) -> None:
    """Says on the standard error how many rows have no answer, and of the first of them why."""
    for problem in named:
        print(f"{problem} Its answer is empty.", file=sys.stderr)
    if bad > len(named):
        print(f"and {bad - len(named)} more rows.", file=sys.stderr)
    if bad:
        print(f"{bad} of {rows} rows have no answer.", file=sys.stderr)
