"""A model's encoding over HTTP: text to token ids and back, with the field names of vLLM."""

from fastapi import APIRouter

from victorian.errors import RequestError
from victorian.service.answers import refusals
from victorian.service.logprobs import token_name
from victorian.service.models import Models
from victorian.service.protocol import Detokenized, DetokenizeRequest, Tokenized, TokenizeRequest


def encoding(models: Models) -> APIRouter:
    """The routes."""
    router = APIRouter()

    @router.post("/v1/tokenize", responses=refusals(413))
    def tokenize(body: TokenizeRequest) -> Tokenized:
        """The token ids of a text. `<|endoftext|>` in it is text like any other."""
        engine = models.find(body.model).engine
        tokens = [int(token) for token in engine.encoding.encode(body.prompt)]
        names = [token_name(engine.encoding, token) for token in tokens] if body.return_token_strs else None
        return Tokenized(tokens=tokens, count=len(tokens), max_model_len=engine.context, token_strs=names)

    @router.post("/v1/detokenize", responses=refusals(413))
    def detokenize(body: DetokenizeRequest) -> Detokenized:
        """The text of token ids."""
        known = models.find(body.model).engine.encoding
        if strange := next((token for token in body.tokens if token >= known.size), None):
            raise RequestError(f"token ids must be from 0 to {known.size - 1}, got {strange}", "tokens")
        return Detokenized(prompt=known.decode(body.tokens))

    return router
