"""A student as a page that runs it: in the browser of whoever opens it, who sends nothing anywhere."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jinja2 import Environment, PackageLoader

from distilingua.artifacts import whole_file
from distilingua.delivery.formats import Onnx, Student
from distilingua.errors import UserError, one_of, refuse, truth
from distilingua.tasks.task import Task

CDN = "https://cdn.jsdelivr.net"
TRANSFORMERS, RUNTIME = "@huggingface/transformers", "onnxruntime-web"
BINARY = "dist/ort-wasm-simd-threaded.wasm"
# of transformers.js what leaves ONNX Runtime out, and of that what knows no graphics card: half of the bytes
SCRIPTS = {TRANSFORMERS: ["dist/transformers.web.min.js", "LICENSE"], RUNTIME: ["dist/ort.wasm.bundle.min.mjs", BINARY]}
READ_BY = ("config.json", "tokenizer.json", "tokenizer_config.json")


class Web:
    """A folder `web` to be served as it is: index.html, the student in 8 bits as transformers.js wants it, and its
    libraries.

    Args:
        versions: of the packages of npm, exact; the runtime is the one that transformers.js itself asks for.
        assets: "npm" puts the libraries into the folder; "cdn" has the browser load them from jsDelivr, so that
            nothing but the address of these files leaves it.
        teacher: whether the teacher, in 8 bits too, stands beside the student.

    Raises:
        UserError: an option that cannot be.
    """

    def __init__(self, versions: Mapping[str, str], assets: str = "npm", teacher: bool = False) -> None:
        refuse(
            one_of("format.web.assets", assets, ("npm", "cdn")),
            truth("format.web.teacher", teacher),
            None if set(versions) == set(SCRIPTS) else f"format.web.versions: name {' and '.join(SCRIPTS)}, no other.",
        )
        self.versions, self.assets, self.teacher = versions, assets, teacher
        self.onnx = Onnx("onnx/model_quantized.onnx", int8=True)

    def check(self, task: Task) -> str | None:
        if task.problem_type is None:
            return (
                f"format: the page of format=web shows classes and how sure of them the student is, and task="
                f"{task.name} gives none for a text. Leave it out: format=[hub,onnx,onnx_int8]."
            )
        if (long := getattr(task, "long", "head")) != "head":
            return (
                f"format: the page of format=web reads the beginning of a long text, and task.long={long} more of it. "
                f"Leave it out: format=[hub,onnx,onnx_int8]."
            )
        if self.assets == "npm" and shutil.which("npm") is None:
            return (
                "format.web.assets=npm: there is no npm here, which comes with Node.js. Install it, or have the "
                "browser load the libraries from elsewhere: format.web.assets=cdn"
            )
        return self.onnx.check(task)

    def write(self, student: Student, folder: Path) -> Path:
        site = folder / "web"
        made = self._model(student, folder, site / "student")
        if self.teacher:
            assert student.teacher is not None
            self._model(student.teacher(site / "teacher"), site / "teacher", site / "teacher")
        if self.assets == "npm":
            for package, files in SCRIPTS.items():
                from_npm(package, self.versions[package], files, site / "assets")
        with whole_file(site / "index.html") as file:
            file.write_text(self.page(student, json.loads((folder / "config.json").read_text("utf-8"))), "utf-8")
        return made

    def _model(self, model: Student, described: Path, folder: Path) -> Path:
        """One model in a folder of its own; what reads for it is copied from where it has been written."""
        folder.mkdir(parents=True, exist_ok=True)
        made = self.onnx.write(model, folder)
        for name in READ_BY if described != folder else ():
            shutil.copyfile(described / name, folder / name)
        return made

    def page(self, student: Student, config: Mapping[str, Any]) -> str:
        """index.html.

        Args:
            config: of the student, as it is exported.
        """
        own = config["distilingua"]
        pages = Environment(loader=PackageLoader("distilingua.delivery", "."), autoescape=True, trim_blocks=True)
        return pages.get_template("web.html.j2").render(
            title=", ".join([student.encoder.task.name, *own.get("languages", [])]),
            parameters=student.parameters,
            pairs=student.reads_pairs,
            models=["student", "teacher"] if self.teacher else ["student"],
            imports={
                TRANSFORMERS: self.address(TRANSFORMERS),
                "onnxruntime-web/webgpu": self.address(RUNTIME),
                "onnxruntime-common": self.address(RUNTIME),
            },
            binary=self.address(RUNTIME, BINARY),
            elsewhere=CDN if self.assets == "cdn" else "",
            versions=self.versions,
        )

    def address(self, package: str, file: str = "") -> str:
        """Where the page finds a file of a package, its script if none is named."""
        file = file or SCRIPTS[package][0]
        if self.assets == "npm":
            return f"./assets/{Path(file).name}"
        return f"{CDN}/npm/{package}@{self.versions[package]}/{file}"


def from_npm(package: str, version: str, files: Sequence[str], folder: Path) -> None:
    """Files of a package, side by side in a folder. npm checks what it downloads, and keeps it for the next time.

    Raises:
        UserError: npm cannot get it, or such a file is not in it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    npm = shutil.which("npm") or "npm"
    with TemporaryDirectory() as there:
        packing = subprocess.run(
            [npm, "pack", f"{package}@{version}", "--prefer-offline", "--fetch-retries=1", "--loglevel=error"],
            cwd=there,
            capture_output=True,
            text=True,
        )
        if packing.returncode:
            reason = " ".join(packing.stderr.split())[:300]
            raise UserError(
                f"npm cannot get {package}@{version} ({reason}). Try again where npm reaches its registry, or have the "
                f"browser load it from elsewhere: format.web.assets=cdn"
            )
        (packed,) = Path(there).glob("*.tgz")
        with tarfile.open(packed) as tar:
            for name in files:
                try:
                    content = tar.extractfile(f"package/{name}")
                except KeyError:
                    raise UserError(f"{package}@{version} has no {name}. Set format.web.versions as it was.") from None
                assert content is not None
                with whole_file(folder / Path(name).name) as file:
                    file.write_bytes(content.read())
