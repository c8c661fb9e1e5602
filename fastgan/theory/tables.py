"""Two discrete variables: joint, marginal and conditional probabilities, expectation, entropy, Bayes' rule."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from fastgan._errors import Invalid, check_choice

from .arrays import Array, Back, check_non_negative, take, take_distributions
from .divergences import entropy

# variable -> the axis of the other one, over which its marginal sums
_OTHER_AXIS = {"x": 0, "y": 1}


class JointTable:
    """The joint distribution of two discrete variables, from a table of counts or probabilities.

    Args:
        counts: (y, x) table, not negative: one row for each value of y, one column for each of x. Results are of its
            kind, tensors or arrays.

    Raises:
        ValueError: not a table, a negative or infinite count, or nothing but zeros.
    """

    def __init__(self, counts: Array) -> None:
        self._counts: Tensor
        self._back: Back
        (self._counts,), self._back = take("JointTable", counts=counts)
        if self._counts.ndim != 2:
            raise Invalid("JointTable").value(
                "counts", f"must be a table (y, x), got shape {tuple(self._counts.shape)}"
            )
        check_non_negative("JointTable", "counts", self._counts)
        self._total = self._counts.sum()
        if not 0 < float(self._total) < math.inf:
            raise Invalid("JointTable").value("counts", f"must have a positive, finite sum, got {float(self._total)}")

    @property
    def joint(self) -> Any:
        """P(x, y) as a table (y, x)."""
        return self._back(self._counts / self._total)

    def marginal(self, variable: str) -> Any:
        """P(x) as (x,) or P(y) as (y,): the sum of the joint over the other variable.

        Args:
            variable: "x" or "y".
        """
        return self._back(self._sum(variable) / self._total)

    def conditional(self, variable: str) -> Any:
        """P(variable | the other) as a table (y, x); NaN where the condition has no probability.

        Args:
            variable: "x" for P(x|y), whose rows sum to one; "y" for P(y|x), whose columns do.
        """
        check_choice("JointTable.conditional", "variable", variable, ("x", "y"))
        given = "y" if variable == "x" else "x"
        return self._back(self._counts / self._sum(given).unsqueeze(_OTHER_AXIS[given]))

    def expectation(self, values: Array, given: str | None = None) -> Any:
        """E[f(x, y)], or its conditional expectation for each value of one variable.

        Args:
            values: f as a table (y, x), or what broadcasts to it: (x,) for a function of x, (y, 1) for one of y.
            given: None; "x" for E[f|x] as (x,); "y" for E[f|y] as (y,).

        Returns:
            Scalar, or (x,) or (y,); NaN where the condition has no probability.

        Raises:
            ValueError: values that do not fit the table.
        """
        (f,), _ = take("JointTable.expectation", values=values)
        if torch.broadcast_shapes(f.shape, (1, 1)) != self._counts.shape:
            try:
                f = f.expand(self._counts.shape)
            except RuntimeError:
                rule = f"fit the table {tuple(self._counts.shape)}"
                raise Invalid("JointTable.expectation").value("values", f"must {rule}, got {tuple(f.shape)}") from None
        weighted = torch.where(self._counts == 0, 0.0, f.to(self._counts.device) * self._counts)
        if given is None:
            return self._back(weighted.sum() / self._total)
        check_choice("JointTable.expectation", "given", given, ("x", "y"))
        return self._back(weighted.sum(_OTHER_AXIS[given]) / self._sum(given))

    def entropy(self, variable: str = "xy", *, base: float = math.e) -> Any:
        """H(X), H(Y) or the joint entropy H(X, Y).

        Args:
            variable: "x", "y" or "xy".
            base: of the logarithm: math.e for nats, 2 for bits.
        """
        check_choice("JointTable.entropy", "variable", variable, ("x", "y", "xy"))
        counts = self._counts.flatten() if variable == "xy" else self._sum(variable)
        return self._back(entropy(counts / self._total, base=base))

    def conditional_entropy(self, variable: str, *, base: float = math.e) -> Any:
        """H(X|Y) or H(Y|X): a variable's entropy when the other one is known.

        Args:
            variable: "x" for H(X|Y), "y" for H(Y|X).
            base: as for `entropy`.
        """
        check_choice("JointTable.conditional_entropy", "variable", variable, ("x", "y"))
        return self.entropy("xy", base=base) - self.entropy("y" if variable == "x" else "x", base=base)

    def mutual_information(self, *, base: float = math.e) -> Any:
        """I(X; Y) = H(X) + H(Y) - H(X, Y): the information of each variable about the other.

        Args:
            base: as for `entropy`.
        """
        return self.entropy("x", base=base) - self.conditional_entropy("x", base=base)

    def _sum(self, variable: str) -> Tensor:
        check_choice("JointTable.marginal", "variable", variable, ("x", "y"))
        return self._counts.sum(_OTHER_AXIS[variable])


def bayes(prior: Array, likelihood: Array) -> Any:
    """Bayes' rule: the posterior P(x|y) = P(y|x) P(x) / sum over x of P(y|x) P(x).

    Args:
        prior: (x,) P(x), summing to one.
        likelihood: (y, x) P(y|x), each column summing to one; or (x,) for one observed y.

    Returns:
        Array like likelihood: P(x|y), each row summing to one; NaN for a y of probability 0.

    Raises:
        ValueError: prior is no distribution, a negative likelihood, or shapes that do not fit.
    """
    (p,), _, _ = take_distributions("bayes", None, prior=prior)
    (_, given), back = take("bayes", prior=prior, likelihood=likelihood)
    check_non_negative("bayes", "likelihood", given)
    if p.ndim != 1 or given.ndim not in (1, 2) or given.shape[-1] != len(p):
        raise Invalid("bayes").value("likelihood", f"must be (y, {len(p)}) or ({len(p)},), got {tuple(given.shape)}")
    joint = given * p
    return back(joint / joint.sum(-1, keepdim=True))
