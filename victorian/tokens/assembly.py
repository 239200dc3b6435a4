"""Between the two passes, and after them: where tokens land, and what the manifest says. Plain arithmetic."""

from collections.abc import Sequence

from victorian.config import DataConfig
from victorian.corpus.book import SPLITS, Split
from victorian.corpus.cleaning import CLEANING_VERSION
from victorian.corpus.sources import Found
from victorian.tokens.bpe import get_encoding
from victorian.tokens.manifest import BookEntry, DroppedEntry, EncodingEntry, Manifest, ShardEntry, SplitEntry
from victorian.tokens.packing import Slice, Unit, place, without
from victorian.tokens.shards import shard_name
from victorian.tokens.units import Part, ShardPlan


def plan_shards(
    units: Sequence[Unit], parts: Sequence[Part], left_out: dict[str, DroppedEntry], tokens_per_shard: int
) -> list[ShardPlan]:
    """The second pass: for every split, where the tokens of its parts land, less the books that are left out."""
    plans = []
    for split in SPLITS:
        own = [part for unit, part in zip(units, parts, strict=True) if unit.split == split]
        pieces: list[Slice] = []
        for index, part in enumerate(own):
            gone = [(b.offset, b.offset + b.tokens) for b in part.books if b.id in left_out]
            pieces += without(part.tokens, gone, index)
        for number, shard in enumerate(place(pieces, tokens_per_shard)):
            slices = tuple((own[s.unit].name, own[s.unit].sha256, s.start, s.stop) for s in shard)
            plans.append(ShardPlan(name=shard_name(split, number), slices=slices))
    return plans


def assemble(
    found: Found,
    units: Sequence[Unit],
    parts: Sequence[Part],
    left_out: dict[str, DroppedEntry],
    shards: Sequence[ShardEntry],
    data: DataConfig,
    corpus_sha256: str,
) -> Manifest:
    """The manifest of a finished data set."""
    splits: dict[Split, SplitEntry] = {}
    for split in SPLITS:
        entries: list[BookEntry] = []
        offset = 0
        for unit, part in zip(units, parts, strict=True):
            if unit.split != split:
                continue
            for book in part.books:
                if book.id not in left_out:
                    entries.append(book.model_copy(update={"offset": offset}))
                    offset += book.tokens
        if offset:
            own = sorted((shard for shard in shards if shard.name.startswith(f"{split}-")), key=lambda s: s.name)
            splits[split] = SplitEntry(tokens=offset, shards=tuple(own), books=tuple(entries))
    encoding = get_encoding(data.tokens.ranks)
    dropped = [entry for part in parts for entry in part.dropped] + list(left_out.values()) + _absent(found)
    return Manifest(
        encoding=EncodingEntry(ranks=encoding.ranks, sha256=encoding.sha256),
        data=data,
        cleaning_version=CLEANING_VERSION,
        corpus_sha256=corpus_sha256,
        splits=splits,
        dropped=tuple(sorted(dropped, key=lambda entry: ((*SPLITS, None).index(entry.split), entry.id))),
    )


def _absent(found: Found) -> list[DroppedEntry]:
    """Books that the metadata name and that are not there, where that was allowed."""
    return [
        DroppedEntry(
            id=book.id,
            split=book.split,
            title=book.title,
            year=book.year,
            reason="no text",
            detail="",
            bytes=0,
            tokens=0,
        )
        for book in found.absent
    ]
