"""Tables with columns of any kind: numbers, labels, dates, missing values; the conditional GAN for them (CTGAN).

Source: Xu, Skoularidou, Cuesta-Infante, Veeramachaneni (2019), "Modeling Tabular Data using Conditional GAN".
"""

from .constraints import FixedCombinations, Inequality, Positive
from .gan import TabularConfig, TabularGAN
from .transformer import TableTransformer

__all__ = ["FixedCombinations", "Inequality", "Positive", "TableTransformer", "TabularConfig", "TabularGAN"]


def __dir__() -> list[str]:
    return __all__
