"""From books to shards: `victorian prepare`."""

from typing import TYPE_CHECKING

import tyro
from rich.console import Console

from victorian.command_line import RecipeName, Verbs, say
from victorian.config import CleaningConfig, DataConfig, Recipe, SelectionConfig, TokensConfig
from victorian.errors import ConfigError

if TYPE_CHECKING:
    from victorian.tokens.manifest import Manifest

MOST_NAMED = 20
"""Books that are named one by one on the terminal when they are left out."""


def corpus_verbs(recipe: Recipe) -> Verbs:
    """The verb, with the flags of a recipe at that recipe's values."""

    def prepare(
        source: tyro.conf.Positional[str] = "",
        output: str = "",
        recipe_name: RecipeName = recipe.name,
        tokens: TokensConfig = recipe.tokens,
        cleaning: CleaningConfig = recipe.cleaning,
        selection: SelectionConfig = recipe.selection,
        overwrite: bool = False,
        verify: str = "",
    ) -> None:
        """Clean, select and tokenize a corpus into shards with Ray Data.

        Args:
            source: A folder in PG19's layout, of .txt or of .parquet files, here or under s3:// or gs://;
                `hf:OWNER/NAME` for a data set of the Hugging Face hub; `sample` for the books in this package.
            output: Folder, here or under s3://, for the shards, their manifest and report.html.
            overwrite: Replace another data set in the output folder.
            verify: Instead of preparing, read this data set back and check every hash and count.
        """
        if verify:
            if source or output:
                raise ConfigError("--verify checks a data set that is there: give it without a source and --output")
            from victorian.tokens.preparation import verify_data

            tell(verify_data(verify))
            say(f"{verify} is whole: every hash and count is what the manifest says")
            return
        if not source or not output:
            raise ConfigError("prepare wants a source and --output (see `victorian prepare --help`)")
        from victorian.cluster.session import prepare_environment

        prepare_environment()  # Ray reads it when it is imported
        from victorian.cluster.prepare import prepare
        from victorian.reports.progress import live_line, watch_preparing

        data = DataConfig(tokens=tokens, cleaning=cleaning, selection=selection)
        with live_line(Console(), "tokens", plain_seconds=None) as show:
            made = prepare(source, output, data, overwrite, watch_preparing(show), recipe.name)
        tell(made.manifest)
        if made.run and made.run.units_reused:
            say(f"{made.run.units_reused} of {made.run.units} units of books had been done by an earlier run")
        say(f"{output} " + ("was there and whole: reused" if made.reused else "is ready; report.html shows it"))

    return {"prepare": prepare}


def tell(manifest: "Manifest") -> None:
    """What a data set holds, and how many books were left out for which reason."""
    for split, entry in manifest.splits.items():
        say(f"{split}: {len(entry.books):,} books, {entry.tokens:,} tokens, {len(entry.shards)} shards")
    for book in manifest.dropped[:MOST_NAMED]:
        say(f"left out: {book.id} ({book.reason}{': ' * bool(book.detail)}{book.detail})")
    if len(manifest.dropped) > MOST_NAMED:
        say(f"left out: {len(manifest.dropped) - MOST_NAMED:,} more, named in the report")
