"""The OpenAPI document passes a linter, and three generators make clients of it that compile.

The tools are installed for the test: npm packages pinned in package-lock.json, a Python package in requirements.txt.
Update: change the version in package.json, run ``npm install --package-lock-only`` here, run ``make test-openapi``.
"""

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support.api import Api

HERE = Path(__file__).parent
ASYNCAPI = HERE.parents[1] / "services" / "gregor_ingest" / "pages" / "asyncapi.json"
COMPILER_OPTIONS = ["--strict", "--skipLibCheck", "--target", "es2022", "--module", "esnext"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed"),
]


def run(*command: str | Path, cwd: Path) -> None:
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-8_000:]


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the npm tools."""
    folder = tmp_path_factory.mktemp("npm")
    for name in ("package.json", "package-lock.json"):
        shutil.copy(HERE / name, folder)
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The OpenAPI document as a file."""
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(Api().app.openapi()), "utf-8")
    return path


def npx(tools: Path, *command: str | Path) -> None:
    run("npx", "--offline", "--no-install", *command, cwd=tools)


def compile_typescript(tools: Path, folder: Path) -> None:
    sources = sorted(folder.rglob("*.ts"))
    assert sources
    npx(tools, "tsc", "--noEmit", "--moduleResolution", "bundler", *COMPILER_OPTIONS, *sources)


def test_redocly_lint_finds_no_error(tools: Path, document: Path) -> None:
    npx(tools, "redocly", "lint", "--extends=recommended", document)


def test_openapi_typescript_types_compile(tools: Path, document: Path, tmp_path: Path) -> None:
    npx(tools, "openapi-typescript", document, "-o", tmp_path / "types.ts")

    compile_typescript(tools, tmp_path)


def test_hey_api_client_compiles(tools: Path, document: Path, tmp_path: Path) -> None:
    plugins = ["@hey-api/typescript", "@hey-api/sdk", "@hey-api/client-fetch"]
    npx(tools, "openapi-ts", "-i", document, "-o", tmp_path / "client", "-p", *plugins)

    compile_typescript(tools, tmp_path / "client")


def test_openapi_python_client_compiles(document: Path, tmp_path: Path) -> None:
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    run(python, "-m", "pip", "install", "--quiet", "--requirement", HERE / "requirements.txt", cwd=tmp_path)

    client = tmp_path / "client"
    generator = environment / "bin" / "openapi-python-client"
    run(generator, "generate", "--path", document, "--output-path", client, "--meta", "none", cwd=tmp_path)

    run(sys.executable, "-m", "compileall", "-q", client, cwd=tmp_path)
    assert (client / "models" / "gregor_message.py").exists()


def test_asyncapi_document_is_valid(tools: Path) -> None:
    script = tools / "check-asyncapi.mjs"
    script.write_text(
        'import { readFileSync } from "node:fs";\nimport { Parser } from "@asyncapi/parser";\n'
        "const { diagnostics } = await new Parser().parse(readFileSync(process.argv[2], 'utf8'));\n"
        "const wrong = diagnostics.filter(({ severity }) => severity < 2);\n"
        "console.log(JSON.stringify(wrong, null, 1));\nprocess.exit(wrong.length);\n",
        "utf-8",
    )
    run("node", script, ASYNCAPI, cwd=tools)
