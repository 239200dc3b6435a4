"""Held-out books scored by an artifact, as a job on a running cluster; arguments as for `victorian evaluate`.

ray job submit --working-dir . -- python ray_jobs/evaluate.py /shared/runs/first --data /shared/tokens --workers 8
"""

from victorian.cli import main

if __name__ == "__main__":
    main("evaluate")
