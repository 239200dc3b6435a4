"""A prediction, not a measurement: how long `victorian prepare` takes for PG19 whole on 1 to 16 machines.

From rates that `preparing.py` measured on one machine, and these assumptions:

- what tasks do scales with cores: a book is read, cleaned, compared and tokenized by one task, and tasks share nothing;
- text and shards lie in an object store that all machines share, which gives each machine so much and all together so
  much: the text is read once, parts are written once and read once, shards are written once;
- finding the books is a listing of 1,000 names a request, by the driver alone; comparing sketches and writing the
  manifest are the driver's too, and grow with the number of books;
- the cluster is there. Ray's start is counted once, the start of machines is not.

    .venv/bin/python benchmarks/prepare_cost.py --core-mb-per-second 8.8 --price-per-hour 0.77
"""

import tyro
from measure import print_header, print_row

TEXT_MB = 11_453.0
"""PG19's training text: 11.45 GB in 28,602 books (Rae et al. 2019, https://arxiv.org/abs/1911.05507)."""
BOOKS = 28_602
TOKEN_BYTES_A_TEXT_BYTE = 0.48
"""Two bytes a token at 4.15 bytes of text."""


def seconds_for(
    machines: int,
    cores: int,
    core_mb_per_second: float,
    machine_network_mb: float,
    store_mb: float,
    start: float,
    books_per_second: float,
) -> dict[str, float]:
    """Seconds of every stage."""
    network = min(machines * machine_network_mb, store_mb)
    work = TEXT_MB / (machines * cores * core_mb_per_second)
    moved = TEXT_MB * (1 + TOKEN_BYTES_A_TEXT_BYTE) / network
    return {
        "start of Ray": start,
        "finding books": BOOKS / 1_000 * 0.2,
        "reading, cleaning and tokenizing": max(work, moved),
        "comparing books": BOOKS / books_per_second,
        "cutting shards": 2 * TEXT_MB * TOKEN_BYTES_A_TEXT_BYTE / network,
    }


def main(
    core_mb_per_second: float,
    cores: int = 2,
    machine_network_mb: float = 300,
    store_mb: float = 5_000,
    start: float = 15,
    books_per_second: float = 2_000,
    price_per_hour: float | None = None,
) -> None:
    """Predict the time of `prepare` for PG19.

    Args:
        core_mb_per_second: Source text that one core turns into parts, in MB a second, everything on.
        cores: Of one machine.
        machine_network_mb: What the object store gives one machine, in MB a second.
        store_mb: What it gives all machines together.
        start: Seconds of Ray's start and first tasks.
        books_per_second: Books that the driver compares in a second.
        price_per_hour: Of one machine; without it no price is given.
    """
    print_header(
        "PG19 whole, predicted", "minutes", "machine-hours", *(["price"] if price_per_hour else []), "longest stage"
    )
    for machines in (1, 2, 4, 8, 16):
        stages = seconds_for(machines, cores, core_mb_per_second, machine_network_mb, store_mb, start, books_per_second)
        total = sum(stages.values())
        hours = machines * total / 3600
        price = [f"{hours * price_per_hour:.2f}"] if price_per_hour else []
        longest = max(stages, key=lambda stage: stages[stage])
        print_row(
            f"{machines} machines of {cores} cores", f"{total / 60:.1f}", f"{hours:.2f}", *price,
            f"{longest}, {stages[longest] / total:.0%}",
        )  # fmt: skip


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
