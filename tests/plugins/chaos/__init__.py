"""Images through a queue while replicas, brokers and stores die: nothing may be lost, nothing doubled.

``python -m chaos`` with ``tests/plugins`` on the import path, or ``make chaos``. All that a run does follows from its
seed; when replicas come back, and which message they had, does not.
"""
