"""CTGAN, a conditional GAN for tables: columns of numbers, labels and dates, with missing values.

Source: Xu, Skoularidou, Cuesta-Infante, Veeramachaneni (2019), "Modeling Tabular Data using Conditional GAN".
"""

from .config import TabularConfig
from .constraints import FixedCombinations, Inequality, Positive
from .gan import TabularGAN
from .report import Report
from .transformer import TableTransformer

__all__ = ["FixedCombinations", "Inequality", "Positive", "Report", "TableTransformer", "TabularConfig", "TabularGAN"]
__dir__ = __all__.copy  # what completion shows
