"""Every error a user can meet, in one tree.

    VictorianError
    ├── ConfigError       a recipe, a flag or a setting that cannot be
    ├── CorpusError       books that are missing, empty or unreadable
    ├── StorageError      a place that cannot be read or written, or whose bytes are not what was written
    │   └── TakenError        ... because something of that name is there already
    ├── DataError         shards that are missing, corrupt or of another vocabulary
    ├── TrainingError     a run that cannot start or go on
    │   ├── DivergedError     ... because a loss or gradient is no number, or its loss far above what it was
    │   ├── UnstoredError     ... because its checkpoints cannot be stored
    │   └── StoppedError      ... because it was told to stop; it can be gone on with
    ├── ArtifactError     a model directory that is missing, corrupt or of another vocabulary
    ├── RequestError      a generation request that cannot be served as asked
    │   ├── OverloadedError   ... now; later it can
    │   └── AuthenticationError   ... by whoever asked
    └── ServiceError      a service that cannot start, cannot be reached, or broke off
        └── ReplicaLostError  ... in the middle of an answer: what has come of it is not the whole

A message says what was expected, what came, and what to do. The command line prints it as one line.
"""


class VictorianError(Exception):
    """Base of all errors caused by what came from outside; anything else is a bug of ours."""


class ConfigError(VictorianError, ValueError):
    """A recipe, flag or setting is out of range or contradicts another."""


class CorpusError(VictorianError, ValueError):
    """A corpus is missing, empty, or holds a book that cannot be read."""


class StorageError(VictorianError, OSError):
    """A location cannot be read or written, or does not hold the bytes that were written."""


class TakenError(StorageError):
    """Something of that name is there already, and was to be written only if it was not."""


class DataError(VictorianError, ValueError):
    """A token data set is missing, incomplete, corrupt, or made with another encoding."""


class TrainingError(VictorianError, RuntimeError):
    """A run cannot start, go on, or be resumed with what it is given."""


class DivergedError(TrainingError):
    """A step's loss or gradient, or the validation loss after it, is no number, or its loss far above the running mean.

    Attributes:
        may_go_on: whether another attempt would leave out the batch that caused it.
    """

    def __init__(self, message: str, may_go_on: bool = False) -> None:
        super().__init__(message)
        self.may_go_on = may_go_on


class UnstoredError(TrainingError):
    """A checkpoint could not be stored, with patience: the last one that is whole is named."""


class StoppedError(TrainingError):
    """A run was told to stop and has left a checkpoint: the same command goes on."""


class ArtifactError(VictorianError, ValueError):
    """A model directory is missing, incomplete, corrupt, or does not fit what it is used with."""


class RequestError(VictorianError, ValueError):
    """A request cannot be served as asked.

    Attributes:
        parameter: the field at fault, if one is.
        code: a name for programs, as OpenAI's API has them, if there is one.
    """

    def __init__(self, message: str, parameter: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.parameter = parameter
        self.code = code


class OverloadedError(RequestError):
    """There is no room, or a key has used up its minute: the same request may succeed later.

    Attributes:
        retry_after_seconds: when that may be, if it is known.
    """

    def __init__(
        self,
        message: str,
        parameter: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message, parameter, code)
        self.retry_after_seconds = retry_after_seconds


class AuthenticationError(RequestError):
    """The service asks for a key, does not know this one, or does not let it do this."""


class ServiceError(VictorianError, RuntimeError):
    """A service cannot start, cannot be reached, or ended a stream before it was complete.

    Attributes:
        code: a name for programs, as docs/protocol.md has them, if there is one.
        retry_after_seconds: when the same request may succeed, if that is known.
    """

    def __init__(self, message: str, code: str | None = None, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class ReplicaLostError(ServiceError):
    """The connection, or the process behind it, was lost before the answer was complete.

    Attributes:
        text: what had come until then.
    """

    def __init__(self, message: str, text: str = "") -> None:
        super().__init__(message, "replica_lost")
        self.text = text
