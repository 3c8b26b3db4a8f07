"""What makes a network a DEQ estimator."""

from numbers import Integral, Real

import torch
from sklearn.utils._param_validation import Interval, StrOptions

from .._theory.activations import get_activation
from .._warn import warn
from .fixed_point import SOLVERS
from .modules import DEQ, MAX_GAIN

_WIDTH, _WIDE = 512, 1024  # of width="auto": the latter where a regression's readout learns alone
_NARROW = 64  # a narrower network of a searched recurrent_var may have no fixed point
_TOLD_FROM = 1.2  # a recurrent weight that has to be scaled down by less than this is no news


class DEQFeatures:
    """What makes a network a DEQ estimator."""

    _parameter_constraints = {
        "fixed_point_solver": [StrOptions(set(SOLVERS))],
        "tol": [Interval(Real, 0, None, closed="neither")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
    }

    # peak rate and weight decay: on labels, and from the start that the search gives of all weights
    # or the readout
    _auto_rates = {
        "labels": (0.005, 0.3), "start": (0.001, 10.0),
        "many": (0.003, 1.0), "readout": (0.003, 1.0),
    }  # fmt: skip

    def _given(self):
        """The parameters that are not "auto"; features of random weights have the CK."""
        return {"kernel": "ck", **super()._given()}

    def _fit(self, *args, **kwargs):
        """A network that is fitted further is solved as the parameters now say."""
        if not hasattr(self, "module_"):
            return super()._fit(*args, **kwargs)
        features, options = self.module_.features, ("solver", "tol", "max_iter")
        before = [getattr(features, name) for name in options]
        now = self.fixed_point_solver, self.tol, self.max_iter
        try:
            for name, value in zip(options, now, strict=True):
                setattr(features, name, value)
            return super()._fit(*args, **kwargs)
        except BaseException:
            for name, value in zip(options, before, strict=True):
                setattr(features, name, value)
            raise

    def _make_features(self, preparation, X, parameters, generator):
        """The DEQ on prepared rows."""
        scaler = preparation.scaler
        activation, recurrent_var = parameters["activation"], parameters["recurrent_var"]
        # the norm of a wide Gaussian matrix is twice the root of its variance times its width
        gain = 2 * recurrent_var**0.5 * get_activation(activation).lipschitz
        searched, width = self._searches(X), self._units(X)
        narrow = searched and width < _NARROW
        contract = narrow or not (self._solves_readout or searched)
        if contract and not narrow and gain > _TOLD_FROM * MAX_GAIN:
            warn(
                f"recurrent_var={recurrent_var} makes the layer expand distances by up to "
                f"{gain:.2f}; train='all' keeps that below {MAX_GAIN} and starts from a recurrent "
                f"weight scaled by {MAX_GAIN / gain:.2f}. Use "
                f"recurrent_var <= {recurrent_var * (MAX_GAIN / gain) ** 2:.2f}, or "
                "train='readout', which takes the weight as it is.",
                UserWarning,
            )
        deq = DEQ(
            preparation.transform(X[:1]).shape[1], width, activation=activation,
            recurrent_var=recurrent_var, input_var=parameters["input_var"],
            bias_var=scaler.bias_var_, center=parameters["center"], tau0=scaler.tau0_ or 1.0,
            solver=self.fixed_point_solver,
            tol=self.tol, max_iter=self.max_iter, contract=contract,
            generator=generator, dtype=torch.float32,
        )  # fmt: skip
        return deq, {"width_": width}

    def _units(self, X):
        """Hidden units of a network for rows X."""
        if self.width != "auto":
            return self.width
        all_trained = self.train == "all" or self.early_stopping or self.callbacks
        few = len(X) < self._fewest_trained and self._searches(X)
        return _WIDE if self._numeric and few and not all_trained else _WIDTH
