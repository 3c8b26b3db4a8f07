"""Rows as a kernel or network takes them: encoded, weighted by feature, scaled."""

from dataclasses import dataclass

import torch

from .._scaling import InputScaler
from .._state import storable
from .encodings import Encoding


@storable
@dataclass(frozen=True)
class Preparation:
    """The steps from rows in the units of the training data; made by `of`, fitted by its scaler.

    Parameters
    ----------
    encoding : Encoding or None
        Of the columns.
    feature_scale : tensor of shape (n_encoded,) or None
        What encoded columns are multiplied by.
    scaler : InputScaler
        Of the rows that come out.
    """

    encoding: Encoding | None
    feature_scale: torch.Tensor | None
    scaler: InputScaler

    @classmethod
    def of(cls, choice):
        """The Preparation of a Choice; its scaler is to be fitted to `weighted` rows."""
        p, weights = choice.parameters, choice.feature_weights
        scale = None if weights is None else weights.sqrt().cpu()
        scaler = InputScaler(p["input_scaling"], input_var=p["input_var"], bias_var=p["bias_var"])
        return cls(choice.encoding, scale, scaler)

    def weighted(self, X):
        """Rows (n, n_features) encoded, their columns multiplied: (n, n_encoded)."""
        X = X if self.encoding is None else self.encoding.transform(X)
        return X if self.feature_scale is None else X * self.feature_scale.to(X)

    def transform(self, X):
        """Rows (n, n_features) as the kernel or network takes them."""
        return self.scaler.transform(self.weighted(X))
