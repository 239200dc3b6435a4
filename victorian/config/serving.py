"""From a model to readers: how tokens are drawn, how an engine shares a model, what a service serves."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidatorFunctionWrapHandler, WithJsonSchema, WrapValidator

from victorian.config.section import Section

MAX_BIASED = 1024
"""Tokens whose logits one request may change."""


def _zero_as_well(value: Any, inner: ValidatorFunctionWrapHandler) -> float:
    """Zero stands outside the range of a temperature, and has a meaning of its own."""
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    checked: float = inner(value)
    return checked


ZERO_AS_WELL = WithJsonSchema({"anyOf": [{"const": 0}, {"type": "number", "minimum": 0.1, "maximum": 2}]})


def not_too_many(value: Any) -> Any:
    """Counted before each is looked at: a list of a hundred thousand problems takes a second to make."""
    if isinstance(value, dict) and len(value) > MAX_BIASED:
        raise ValueError(f"at most {MAX_BIASED} tokens can have one, got {len(value)}")
    return value


class SamplingParameters(Section):
    """How the next token is drawn."""

    # Defaults are named: of one that is not, type checkers without pydantic's plugin know nothing.
    temperature: Annotated[float, Field(ge=0.1, le=2.0), WrapValidator(_zero_as_well), ZERO_AS_WELL] = 1.3
    """Flattens (above 1) or sharpens (below 1) the distribution; 0.1 to 2, or 0 to take the likeliest token always."""
    top_k: int = Field(default=50, ge=0, le=100)
    """Only the k likeliest tokens may be drawn; 0 to 100, 0 is off."""
    top_p: float = Field(default=0.95, ge=0, le=1)
    """Only the likeliest tokens that together hold this probability may be drawn; 0 to 1, 1 is off."""
    min_p: float = Field(default=0, ge=0, le=1)
    """Only tokens of at least this share of the likeliest one's probability may be drawn; 0 is off."""
    repetition_penalty: float = Field(default=1.2, ge=1, le=2)
    """Makes tokens that already stand in prompt or output less likely; 1 to 2, 1 is off."""
    presence_penalty: float = Field(default=0, ge=-2, le=2)
    """Taken off the logits of tokens that stand in the output."""
    frequency_penalty: float = Field(default=0, ge=-2, le=2)
    """Taken off the logits of tokens of the output for each time that they stand there."""
    logit_bias: Annotated[dict[int, Annotated[float, Field(ge=-100, le=100)]], BeforeValidator(not_too_many)] = Field(
        default={}, max_length=MAX_BIASED
    )
    """Added to the logits of these tokens."""
    min_tokens: int = Field(default=0, ge=0, le=32_768)
    """Tokens before the end of the text may be drawn; a stop string ends it even so."""
    max_tokens: int = Field(default=256, ge=1, le=32_768)
    """Tokens to generate at most."""
    keep_tokens: int = Field(default=0, ge=0, le=32_768)
    """Tokens of the prompt's beginning that stay in sight when the text outgrows the context; at most half of that."""
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    """The same seed gives the same text; without one, a seed is drawn."""
    stop: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        default=(), max_length=4, fail_fast=True
    )
    """Texts that end the generation; they are not part of it. At most 4."""


def bounds(parameter: str) -> tuple[float, float]:
    """The smallest and largest value of a number among the sampling parameters."""
    metadata = SamplingParameters.model_fields[parameter].metadata
    low = next(float(item.ge) for item in metadata if hasattr(item, "ge"))
    return low, next(float(item.le) for item in metadata if hasattr(item, "le"))


Precision = Literal["fp32", "bf16", "int8"]


class EngineConfig(Section):
    """How one engine shares one model among its requests."""

    max_running: int = Field(16, ge=1, le=1024)
    """Requests that decode side by side; each holds a row of the KV cache."""
    max_waiting: int = Field(64, ge=0)
    """Requests that may wait for a row; one more is refused."""
    precision: Precision = "fp32"
    """Of products: fp32, bf16, or int8 with a scale for each output and each token; the cache is bf16 but for fp32."""
    chunk: int = Field(128, ge=16, le=8192)
    """Tokens of prompts that one step reads at the most: how long a prompt can hold the others up."""
    max_unread: int = Field(4096, ge=1)
    """Tokens that are kept for a reader who does not take them; with one more the request is cancelled."""
    gather_seconds: float = Field(0.1, ge=0, le=1)
    """For which tokens after the first are kept for a client, to be sent together; 0 sends each when it is drawn."""
    writes_per_second: float | None = Field(None, gt=0)
    """To all clients of a model in a replica together; where they would be more, tokens are kept for longer, up to half
    a second. By default 32 for each core of the machine, since a write costs the same whether it brings one token or
    twenty."""
    batch_invariant: bool = False
    """Start only where a request's logits are the same bits whoever its neighbours are: with our own kernels."""
    cache_tokens: int | None = Field(None, ge=16)
    """Tokens that the KV cache holds, at least the context; by default a context for each running request."""
    kernels: Literal["auto", "native", "torch"] = "auto"
    """Our own, compiled on this machine, where its CPU and its compiler allow; else the network as torch runs it."""
    threads: int | None = Field(None, ge=1)
    """CPU threads of the network; by default every core."""


class ModelSource(Section):
    """Where a model comes from, and what it is called."""

    artifact: str = "runs"
    """A model directory, or a folder of runs, whose newest artifact is taken; `pretrained` is the package's own."""
    name: str | None = Field(None, min_length=1, max_length=100)
    """Name that clients see; by default the recipe's."""


class ModelsConfig(Section):
    """What is served: the `user_config` of `serve_config.yaml`, which can change while streams go on."""

    models: tuple[ModelSource, ...] = Field((ModelSource(),), min_length=1, max_length=8)
    """The first is meant where a client names none. Each has an engine, and memory, of its own."""


Origin = Annotated[str, Field(pattern=r"^(\*|https?://[^/\s?#@]+)$", max_length=200)]


class AccessConfig(Section):
    """Who may use a service, and how much of it; docs/security.md says more."""

    keys_file: str | None = Field(None, min_length=1)
    """File of API keys, as `victorian key` makes them. With one, or with VICTORIAN_KEYS, every request needs a key."""
    open_to_anyone: bool = False
    """Let other machines in without keys: by default a service without keys starts on this machine's loopback alone."""
    requests_per_minute: int | None = Field(None, ge=1, le=100_000)
    """Requests that one key may make in any minute, for each replica; without keys, all callers together."""
    tokens_per_minute: int | None = Field(None, ge=1, le=1_000_000_000)
    """Tokens of prompts, and that may be generated, in any minute, as `requests_per_minute` counts requests."""
    origins: tuple[Origin, ...] = Field((), max_length=100)
    """Web pages of other origins that may call, as `https://example.org`; `*` is any. A service's own always may."""
    max_sockets: int = Field(500, ge=1, le=900)
    """WebSockets that one replica holds open. Under Ray Serve, 1,000 requests and sockets fill it."""
    max_sockets_per_key: int | None = Field(None, ge=1, le=900)
    """WebSockets that one key may hold open, for each replica; without keys, all callers together."""


class ObservationConfig(Section):
    """What a service tells of itself."""

    log_format: Literal["json", "text"] = "json"
    """JSON is one object a line, for programs; text is for eyes."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least that is logged. info has a line for each request, warning for those that were refused or failed."""
    log_texts: bool = False
    """Whether prompts and outputs stand in the log, whole. Readers may have written in confidence."""
    probe_seconds: float = Field(5, ge=0.1, le=3600)
    """A model that gave no token for so long is asked for one; one that gave none for twice as long is not ready."""
    probe_timeout_seconds: float = Field(10, ge=0.1, le=600)
    """What that token may take."""
    hang_seconds: float = Field(120, ge=1, le=86_400)
    """A model that gave no token for so long, beyond `probe_seconds`, hangs: Ray replaces its replica."""
    traces_to: str | None = Field(None, pattern="^https?://", max_length=2000)
    """Address that takes OpenTelemetry's traces over HTTP, such as http://127.0.0.1:4318/v1/traces; without, none."""
    traced_share: float = Field(1, ge=0, le=1)
    """Share of the requests that are traced, where the caller has not decided; 0 to 1."""


class SocketConfig(Section):
    """What one WebSocket may take, and how long it may do nothing."""

    generations: int = Field(8, ge=1, le=1024)
    """Generations that may be under way on one socket."""
    message_bytes: int = Field(1 << 20, ge=1024, le=1 << 24)
    """Size of a client's message; a larger one closes the socket, once the server below has read and inflated it, up to
    a limit of its own: 16 MiB for uvicorn, and so for Ray Serve's proxy."""
    idle_seconds: float = Field(300, gt=0, le=86_400)
    """How long a socket may be open with no generation under way and no message from its client."""
    send_seconds: float = Field(30, gt=0, le=3600)
    """How long a client, over HTTP as well, may take nothing of what is sent to it; after that it is cut off."""


class ServiceConfig(Section):
    """How a service serves: the `args` of `serve_config.yaml`."""

    engine: EngineConfig = EngineConfig()
    access: AccessConfig = AccessConfig()
    socket: SocketConfig = SocketConfig()
    deadline_seconds: float = Field(600, ge=0.1, le=86_400)
    """What a request may take, waiting included; a client can ask for less."""
    observe: ObservationConfig = ObservationConfig()

    def deadline(self, asked: float | None) -> float:
        """What one request may take, in seconds, if its client asked for so many."""
        return self.deadline_seconds if asked is None else min(asked, self.deadline_seconds)
