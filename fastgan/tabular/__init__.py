"""Tables with columns of any kind: numbers, labels, dates, missing values; the conditional GAN for them (CTGAN).

Source: Xu, Skoularidou, Cuesta-Infante, Veeramachaneni (2019), "Modeling Tabular Data using Conditional GAN".
"""

from .transformer import TableTransformer

__all__ = ["TableTransformer"]


def __dir__() -> list[str]:
    return __all__
