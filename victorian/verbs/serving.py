"""From a model to readers: `victorian generate`, `serve`, `drain`, `key`, `app`, `ask`, `export`."""

from typing import Literal

import tyro

from victorian.command_line import Verbs, find_model, say
from victorian.config import EngineConfig, ModelsConfig, ModelSource, SamplingParameters, ServiceConfig, service_url
from victorian.errors import ConfigError, RequestError, ServiceError, VictorianError
from victorian.service.keys import Scope


def serving_verbs() -> Verbs:
    """The verbs; none of them depends on a recipe."""

    def generate(
        prompt: tyro.conf.Positional[str] = "",
        artifact: str = "runs",
        sampling: tyro.conf.OmitArgPrefixes[SamplingParameters] = SamplingParameters(),
        engine: EngineConfig = EngineConfig(max_running=1),
    ) -> None:
        """Continue a text with a model on this machine, without a service.

        Args:
            prompt: The beginning; an empty one begins a book.
            artifact: A model directory, or a folder of runs, whose newest artifact is taken. Where nothing was trained
                yet, and as `pretrained`, it is the model that comes with this package.
        """
        from victorian.artifact import read_artifact
        from victorian.engine.engine import Engine
        from victorian.engine.request import Failed, TokenEvent

        loaded = read_artifact(find_model(artifact))
        with Engine(loaded.model, loaded.encoding, engine) as running:
            request = running.request(prompt, sampling)
            print(prompt, end="", flush=True)
            for event in running.stream(request):
                if isinstance(event, TokenEvent):
                    print(event.text, end="", flush=True)
                elif isinstance(event, Failed):
                    raise RequestError(event.message)
            print()

    def serve(
        artifact: str = "runs",
        model_name: str | None = None,
        service: tyro.conf.OmitArgPrefixes[ServiceConfig] = ServiceConfig(),
        host: str = "127.0.0.1",
        port: int = 8000,
        drain_seconds: float = 30,
    ) -> None:
        """Serve a model with Ray Serve until Ctrl-C: OpenAI's completions API, SSE, and a WebSocket.

        Args:
            artifact: A model directory, or a folder of runs, whose newest artifact is taken; `pretrained` is the
                package's own.
            model_name: Name that clients see; by default the recipe's.
            host: Address to listen on; one that other machines reach, such as 0.0.0.0, needs keys.
            port: Port to listen on.
            drain_seconds: How long texts under way may take to end, after Ctrl-C or SIGTERM. A second Ctrl-C waits no
                longer.
        """
        from victorian.cluster.doors import require_closed_doors
        from victorian.cluster.session import session
        from victorian.demo import require_free_port, terminating_like_interrupt, wait_for_interrupt

        found = find_model(artifact)
        models = ModelsConfig(models=(ModelSource(artifact=found, name=model_name),))
        require_closed_doors(service, host)  # `start` looks again, but only when a cluster has started
        require_free_port(host, port)
        with terminating_like_interrupt(), session():
            from victorian.cluster.serve import drain, start, stop

            start(service, models, host, port)
            try:
                say(f"serving {found} at http://{host}:{port}; Ctrl-C ends it")
                wait_for_interrupt()
                say(f"nothing new is taken; what is under way has {drain_seconds:g} s, or until Ctrl-C")
                if left := drain(drain_seconds):
                    say(f"{left} answers were not finished")
            except KeyboardInterrupt:
                say("ended at once")
            finally:
                stop()

    def drain(seconds: tyro.conf.Positional[float] = 600) -> None:
        """Have a running service take nothing new, and wait until what is under way has ended; then it can be stopped.

        It is the one that `serve run` or `serve deploy` brought onto the cluster at RAY_ADDRESS, or of this machine.

        Args:
            seconds: How long to wait.
        """
        from victorian.cluster.session import session

        with session(join=True):
            from victorian.cluster import serve

            if left := serve.drain(seconds):
                raise ServiceError(f"after {seconds:g} s, {left} answers are still under way: wait on, or cut them off")
            say("nothing is under way any more: the service can be stopped")

    def key(name: tyro.conf.Positional[str], scopes: tuple[Scope, ...] = ("generate",)) -> None:
        """Make an API key. It is printed once and kept nowhere; a service knows it by its line in the file of keys.

        Args:
            name: Whose key it will be; it stands in logs.
            scopes: What it opens: generate for texts and models, admin for metrics and administration.
        """
        from victorian.service.keys import make_key

        secret, line = make_key(name, scopes)
        say(f"the key, for {name} alone: {secret}")
        say(f"the line for access.keys_file: {line}")

    def app(url: str | None = None, port: int = 8501) -> None:
        """Open the Streamlit page for a service, until Ctrl-C.

        Args:
            url: Address of the service; by default VICTORIAN_URL, else http://127.0.0.1:8000.
            port: Port of the page on this machine.
        """
        from victorian.demo import HOST, require_free_port, streamlit_page, terminating_like_interrupt

        require_free_port(HOST, port)
        with terminating_like_interrupt(), streamlit_page(url or service_url(), port) as page:
            say(f"the writing desk is at http://localhost:{port}; Ctrl-C ends it")
            page.wait()
        raise ServiceError(f"the page ended by itself with code {page.returncode}")

    def ask(
        prompt: tyro.conf.Positional[str] = "",
        url: str | None = None,
        sampling: tyro.conf.OmitArgPrefixes[SamplingParameters] = SamplingParameters(),
    ) -> None:
        """Have a service continue a text, and print it while it comes.

        Args:
            prompt: The beginning; an empty one begins a book.
            url: Address of the service; by default VICTORIAN_URL, else http://127.0.0.1:8000.
        """
        from victorian.client import Client

        with Client(url) as client:
            stream = client.stream(prompt, sampling)
            try:
                for piece in stream:
                    print(piece, end="", flush=True)
            except VictorianError:
                if stream.text:  # else what went wrong would stand on the text's last line
                    print(flush=True)
                raise
            print()

    def export(
        artifact: tyro.conf.Positional[str],
        output: str,
        format: Literal["directory", "gguf"] = "directory",
        precision: Literal["bf16", "fp16", "fp32", "q8_0"] = "bf16",
    ) -> None:
        """Copy a model, with weights of another type: a directory to publish, half as large in bf16, or a GGUF file.

        Args:
            artifact: A model directory, or a folder of runs, whose newest artifact is taken.
            output: Folder of the copy, here or under s3://, which holds nothing else; a copy that was there is
                replaced. Of a GGUF file its name, which ends in .gguf.
            format: A model directory as it was, which Hugging Face's libraries read too, or the file of llama.cpp.
            precision: Type of the weights in the copy; q8_0, eight bits in blocks, in GGUF files alone.
        """
        from victorian.artifact import read_artifact, write_artifact, write_gguf
        from victorian.device import DTYPES
        from victorian.verbs.place import check_place

        if format == "directory" and precision not in DTYPES:
            raise ConfigError(
                f"a model directory has no weights in {precision}: take {', '.join(DTYPES)}, or a GGUF file"
            )
        found = find_model(artifact)
        if format == "directory":
            check_place(output, found)
        loaded = read_artifact(found)
        if format == "gguf":
            write_gguf(output, loaded, precision)
        else:
            write_artifact(output, loaded.model, loaded.recipe, loaded.record, DTYPES[precision])
        say(f"{output} is ready")

    return {"generate": generate, "serve": serve, "drain": drain, "key": key, "app": app, "ask": ask, "export": export}
