r"""Shards to an artifact, as a job on a running cluster; arguments as for `victorian train`.

ray job submit --working-dir . -- python ray_jobs/train.py --recipe gpt2-124m --data /shared/tokens \
    --run /shared/runs/first --workers 8 --gpu
"""

from victorian.cli import main

if __name__ == "__main__":
    main("train")
