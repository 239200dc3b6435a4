"""Books to shards, as a job on a running cluster; arguments as for `victorian prepare`.

ray job submit --working-dir . -- python ray_jobs/prepare.py /shared/pg19 --output /shared/tokens
"""

from victorian.cli import main

if __name__ == "__main__":
    main("prepare")
