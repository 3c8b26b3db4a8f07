"""The matched features of the two EquivalentExplicit estimators, and their teacher."""

import math
from numbers import Integral

import torch
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import nn

from .._scaling import row_norms
from .._theory.four_numbers import deq_numbers, require_high_dim
from .._theory.gated import exact_match
from .._theory.matching import solve_matching
from .._theory.spec import deq_spec
from .choice import NETWORK_PARAMETERS
from .distillation import Distillation, wrong_type
from .exact import ExactNetwork
from .modules import ExplicitNetwork

_WIDTH, _WIDE = 512, 2048  # of width="auto": the latter for one exact layer from a search ...
_WIDE_FROM = {"regression": 500, "classification": 2000}  # that has more rows than these


class ExplicitFeatures:
    """What makes a network an EquivalentExplicit estimator."""

    _parameter_constraints = {
        "kernel": [StrOptions({"auto", "ck", "ntk"})],
        "matching": [StrOptions({"auto", "exact", "high_dim"})],
        "n_layers": [Interval(Integral, 1, None, closed="left"), StrOptions({"auto"})],
        "teacher": [HasMethods("predict"), None],
    }

    # peak rate and weight decay: on labels, from where a teacher's weights are taken over, and of
    # all weights or the readout from the start that the search gives
    _auto_rates = {
        "labels": (0.003, 0.3), "teacher": (0.001, 0.0), "start": (0.001, 10.0),
        "many": (0.003, 1.0), "readout": (0.003, 1.0),
    }  # fmt: skip

    @classmethod
    def from_deq(cls, deq, **params):
        """Return an unfitted estimator with the parameters of a DEQ: those found, if it is fitted.

        Parameters
        ----------
        deq : DEQClassifier or DEQRegressor
            Fitted or not.
        **params
            Parameters that are to differ, for instance ``teacher=deq``.

        Returns
        -------
        object
            An estimator of this class.
        """
        kind = cls._teachers[0]
        if not isinstance(deq, kind):
            other = f"{cls.__name__}.from_kernel_ridge takes a kernel ridge."
            other *= isinstance(deq, cls._teachers[1])
            raise wrong_type("deq", deq, kind.__name__, f"{cls.__name__}.from_deq({{}})", other)
        own = cls().get_params(deep=False)
        copied = {k: v for k, v in deq.get_params(deep=False).items() if k in own}
        copied.pop("checkpoint_dir")  # which is that of the other's training
        if hasattr(deq, "module_"):
            copied |= {name: getattr(deq, f"{name}_") for name in ("width", *NETWORK_PARAMETERS)}
        return cls(**{"kernel": "ck", **copied, **params})

    @classmethod
    def from_kernel_ridge(cls, ridge, **params):
        """Return an unfitted estimator that compresses a kernel ridge.

        Its fit draws random features of the ridge's kernel, in the columns and at the scale that
        the ridge found, and solves for a readout that gives what the ridge gives for the rows of
        fit. Predictions then cost the same however many rows the ridge was fitted to;
        ``agreement_`` says how near they are. With ``train="all"`` the network is trained towards
        the ridge from there.

        Parameters
        ----------
        ridge : DEQKernelRidgeClassifier or DEQKernelRidge
            Fitted.
        **params
            Parameters that are to differ from the defaults, for instance ``width``.

        Returns
        -------
        object
            An estimator of this class, with the ridge as its teacher.

        Raises
        ------
        TypeError
            If it is another estimator.
        sklearn.exceptions.NotFittedError
            If the ridge is not fitted.
        """
        kind = cls._teachers[1]
        if not isinstance(ridge, kind):
            other = f"{cls.__name__}.from_deq takes a DEQ."
            other *= isinstance(ridge, cls._teachers[0])
            call = f"{cls.__name__}.from_kernel_ridge({{}})"
            raise wrong_type("ridge", ridge, kind.__name__, call, other)
        check_is_fitted(ridge)
        return cls(teacher=FrozenEstimator(ridge), **params)

    @property
    def _by_numbers(self):
        """Whether the four numbers are to be matched, whatever the DEQ."""
        return self.matching == "high_dim" or self.n_layers not in ("auto", 1)

    def _given(self):
        """The parameters that are not "auto"; four numbers are those of centred networks."""
        given = super()._given()
        if self.kernel != "auto":
            given["kernel"] = self.kernel
        return {"center": True, **given} if self._by_numbers else given

    def _units(self, X, exact):
        """Units of a hidden layer of a network for rows X, matched exactly or by numbers."""
        if self.width != "auto":
            return self.width
        searched = self.teacher is None and self._searches(X)
        wide_from = _WIDE_FROM["regression" if self._numeric else "classification"]
        return _WIDE if exact and searched and len(X) > wide_from else _WIDTH

    def _make_features(self, preparation, X, parameters, generator):
        """The matched network on prepared rows, and what it was matched to."""
        scaler, input_var = preparation.scaler, parameters["input_var"]
        # the DEQ's bias is a constant coordinate of its input, and becomes one of the match's
        bias_var = scaler.bias_var_ / input_var
        tau0 = math.hypot(scaler.tau0_ or 1.0, bias_var**0.5)
        spec = deq_spec(
            parameters["activation"], parameters["recurrent_var"], input_var,
            center=parameters["center"], tau0=tau0,
        )  # fmt: skip
        rows = preparation.transform(X)
        kernel = parameters["kernel"]
        options = {"bias_var": bias_var, "generator": generator, "dtype": torch.float32}
        if self.matching == "exact" or not (self._by_numbers or spec.center):
            if self._by_numbers:
                raise ValueError(
                    f"matching='exact' has one layer, got n_layers={self.n_layers}; "
                    "use n_layers='auto' or matching='high_dim'."
                )
            rows = nn.functional.pad(rows, (0, 1), value=bias_var**0.5)
            match = exact_match(spec, kernel, row_norms(rows).cpu())
            width = self._units(X, exact=True)
            features = ExactNetwork(rows.shape[1] - 1, width, match, **options)
        else:
            setting = "center=False cannot be matched: matching='high_dim'"
            require_high_dim(spec.center, 0.0, kernel, setting, "matching='exact'")
            # what a readout alone learns from is the conjugate kernel: it gets the NTK's numbers
            matched = "ck" if self._solves_readout or self._searches(X) else kernel
            match = solve_matching(deq_numbers(spec, kernel), spec.tau0, matched, self.n_layers)
            width, tau0 = self._units(X, exact=False), scaler.tau0_ or 1.0
            features = ExplicitNetwork(rows.shape[1], width, match.layers, tau0=tau0, **options)
        return features, {"match_": match, "kernel_": kernel, "width_": width}

    def _distillation(self, unlabeled):
        """The Distillation from the teacher, or None."""
        if self.teacher is None:
            if unlabeled:
                raise ValueError("X_unlabeled needs a teacher to label its rows.")
            return None
        distillation = Distillation(self.teacher, self._teachers)
        if self.train == "readout" and not distillation.is_ridge:
            raise ValueError("teacher needs train='all': a readout alone cannot follow a DEQ.")
        return distillation
