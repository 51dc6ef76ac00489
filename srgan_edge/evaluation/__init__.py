"""Quality of results: metrics, benchmarks, and how closely two engines agree."""
