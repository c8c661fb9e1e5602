"""Tables for bench_tabular.py: one of the shape of UCI's Adult, a wide one, and three that scikit-learn brings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

EDUCATION = ("HS-grad", "Some-college", "Bachelors", "Masters", "Assoc", "11th", "Doctorate", "5th-6th")
YEARS = np.array([9, 10, 13, 14, 12, 7, 16, 3])


def adult(rows: int, seed: int = 0) -> pd.DataFrame:
    """14 columns like those of Adult: heavy tails, spikes at 0 and 40, rare labels, dependent columns. No real data."""
    rng = np.random.default_rng(seed)
    age = np.clip(rng.gamma(6, 4, rows) + 15, 17, 90).astype(int)
    education = rng.choice(8, rows, p=[0.32, 0.22, 0.17, 0.06, 0.08, 0.1, 0.02, 0.03])
    sex = np.where(rng.random(rows) < 0.67, "Male", "Female")
    hours = np.where(rng.random(rows) < 0.47, 40, rng.normal(40, 13, rows)).clip(1, 99).astype(int)
    score = 0.05 * age + 0.33 * YEARS[education] + 0.03 * hours + 0.6 * (sex == "Male") + rng.normal(0, 1, rows)
    rich = score > np.quantile(score, 0.76)
    gains = rng.random(rows) < np.where(rich, 0.2, 0.04)
    alone = rng.choice(["Never", "Divorced", "Widowed"], rows, p=[0.6, 0.33, 0.07])
    marital = np.where(rng.random(rows) < 1 / (1 + np.exp((32 - age) / 6)), "Married", alone)
    partner = np.where(sex == "Male", "Husband", "Wife")
    other = rng.choice(["Not-in-family", "Own-child", "Unmarried"], rows)
    countries = ["US", *(f"country-{number}" for number in range(40))]
    work = rng.choice(
        ["Private", "Self-emp", "Local", "State", "Federal", "?"], rows, p=[0.7, 0.11, 0.06, 0.04, 0.03, 0.06]
    )
    return pd.DataFrame({
        "age": age,
        "workclass": work,
        "fnlwgt": np.exp(rng.normal(12, 0.45, rows)).astype(int),
        "education": np.array(EDUCATION)[education],
        "marital": marital,
        "occupation": rng.choice([f"occupation-{k}" for k in range(14)], rows, p=np.arange(1, 15) / 105),
        "relationship": np.where(marital == "Married", partner, other),
        "race": rng.choice(["White", "Black", "Asian", "Amer", "Other"], rows, p=[0.855, 0.096, 0.03, 0.01, 0.009]),
        "sex": sex,
        "capital_gain": np.where(gains, np.exp(rng.normal(8.5, 1, rows)), 0).astype(int),
        "capital_loss": np.where(rng.random(rows) < 0.047, rng.normal(1870, 370, rows).clip(100), 0).astype(int),
        "hours": hours,
        "country": rng.choice(countries, rows, p=[0.9] + [0.1 / 40] * 40),
        "income": np.where(rich, ">50K", "<=50K"),
    })  # fmt: skip


def of_sklearn(name: str) -> pd.DataFrame:
    """breast_cancer or wine, the class as text; or diabetes, whose target is a number."""
    from sklearn import datasets

    found: Any = getattr(datasets, f"load_{name}")(as_frame=True)
    if name == "diabetes":
        return found.frame
    return found.frame.assign(target=found.target.map(lambda code: str(found.target_names[code])))


def wide(rows: int, seed: int = 0) -> pd.DataFrame:
    """60 columns of 200 labels each, neighbours dependent."""
    rng = np.random.default_rng(seed)
    codes = np.cumsum(rng.integers(0, 9, (rows, 60)), 1) % 200
    return pd.DataFrame({f"c{k}": [f"v{code}" for code in codes[:, k]] for k in range(60)})


TABLES = {
    "adult": lambda: adult(5_000),
    "adult, 30,000 rows": lambda: adult(30_000),
    "breast_cancer": lambda: of_sklearn("breast_cancer"),
    "wine": lambda: of_sklearn("wine"),
    "diabetes": lambda: of_sklearn("diabetes"),
    "wide": lambda: wide(500),
}
DISCRETE = {  # what ctgan has to be told
    "adult": ["workclass", "education", "marital", "occupation", "relationship", "race", "sex", "country", "income"],
    "breast_cancer": ["target"],
    "wine": ["target"],
    "diabetes": [],
    "wide": [f"c{k}" for k in range(60)],
}
