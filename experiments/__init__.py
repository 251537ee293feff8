"""The paper's tables as grids of runs: what trains them, keeps their results, and renders them."""
