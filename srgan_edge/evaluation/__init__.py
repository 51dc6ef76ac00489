"""How good a result is: metrics, benchmarks, and how near two engines are."""
