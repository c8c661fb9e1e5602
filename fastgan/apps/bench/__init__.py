"""The benchmark: whole iterations of Algorithm 1 against what people use today, checked on equal results."""
