"""Inner products and L2 divergences between mixtures, in closed form.

    <p, q> = sum over i, j of a_i b_j <f_i, g_j>,      <f, g> = integral of f(x) g(x) dx
    L2^2(p, q) = <p, p> - 2 <p, q> + <q, q>

Any class of mixtures can be compared that has a leaf `weights` of shape `(k,)` and the
method `items()`, which returns the components and their log-kernel:

* the components: a pytree of arrays with a leading axis of k, or of 1 for what all
  components share (it comes unbatched to the kernel, so that what depends on shared
  arrays alone is computed once);
* `log_kernel(left, right)`: log <f, g> of one component each, a scalar. It is defined
  in a module, and the same at each call; all arrays reach it as its arguments.
"""

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from transportjax import _checks
from transportjax._sharding import explicit_mesh_guard

from .gauss_sums import gauss_l2, gauss_sum
from .gaussian import GaussianMixture, squared_distance
from .oriented import OrientedMixture, has_tiles, overlap_by_tiles
from .pair_sums import Side, log_sum_of_pairs, sum_of_pairs


@runtime_checkable
class Mixture(Protocol):
    """What an inner product asks of a mixture."""

    @property
    def weights(self) -> Float[Array, " k"]:
        """The masses of the components."""
        ...

    def items(self) -> tuple[Any, Callable[[Any, Any], Array]]:
        """The components, and the logarithm of the inner product of two of them."""
        ...


M = TypeVar("M", bound=Mixture)


@explicit_mesh_guard
def overlap(p: M, q: M) -> Float[Array, ""]:
    """<p, q>, the integral of the product of two mixtures, one over a volume.

    Both are used as they stand: it is bilinear in the weights, which may be negative.
    Differentiable in all leaves, any number of times; memory is proportional to the
    number of components.

    Args:
        p: a mixture.
        q: another of the same class; its covariances may be of another kind.

    Returns:
        A scalar of the widest dtype of the leaves. Zero where it is smaller than the
        smallest number: see `log_overlap`.

    Raises:
        ValueError: mixtures of different classes, dimensions or static options.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import GaussianMixture, overlap
        >>> p = GaussianMixture(jnp.zeros((1, 1)), jnp.array([1.0]))
        >>> print(overlap(p, p).round(4))  # 1 / sqrt(4 pi)
        0.2821

    References:
        Jian and Vemuri (2011), Robust point set registration using Gaussian mixture
        models, section 3.
    """
    p, q, dtype = _checked(p, q)
    return _product(p, q, is_log=False, exact=True).astype(dtype)


@explicit_mesh_guard
def log_overlap(p: M, q: M) -> Float[Array, ""]:
    """The logarithm of <p, q>, finite however far apart two mixtures are.

    Differentiable in all leaves, with finite gradients, any number of times.

    Args:
        p: a mixture with weights >= 0.
        q: another of the same class.

    Returns:
        A scalar of the widest dtype of the leaves.

    Raises:
        ValueError: as `overlap`; negative weights.

    Example:
        >>> import jax.numpy as jnp
        >>> from transportjax.mixtures import kernel_density, log_overlap
        >>> x = jnp.zeros((3, 2))
        >>> p, q = kernel_density(x, 0.5), kernel_density(x + 20, 0.5)
        >>> print(f"{log_overlap(p, q):.2f}")
        -801.14
    """
    p, q, dtype = _checked(p, q, positive=True)
    return _product(p, q, is_log=True).astype(dtype)


@explicit_mesh_guard
def l2_divergence(
    p: M, q: M, *, variant: str = "l2", normalisation: str = "density"
) -> Float[Array, ""]:
    """How far apart two mixtures are: their squared L2 distance, or a relative of it.

    * `"l2"`: <p, p> - 2 <p, q> + <q, q>, the integral of (p - q)^2. Zero for p = q.
    * `"l2e"`: <p, p> - 2 <p, q>. The same derivatives in p, for less: `q` is constant
      in a registration. <p, p> keeps moving components apart.
    * `"cross"`: -<p, q>. For rigid motions, which leave <p, p> as it is; others would
      gather all components on the densest spot of q.
    * `"kernel_correlation"`: -<p, q>^2 / <p, p>. Does not depend on the scale of p.
    * `"cauchy_schwarz"`: log <p, p> + log <q, q> - 2 log <p, q>. Zero for p = q up to
      scale, and by logarithms throughout: it has gradients at any distance, where those
      of the others vanish.

    Differentiable in all leaves of both, forward and reverse, any number of times. The
    first variant subtracts nearly equal numbers where p is near q: its absolute error
    is a few units of rounding of <p, p>, and what falls below zero is returned as zero.
    Derivatives are those of the sum before this, so that they are right there too.

    Memory is proportional to the number of components. Gaussians that share one
    isotropic covariance, as those of `kernel_density`, are fastest: outside of `jit`,
    many in up to three dimensions take linear time (see `gauss_sum`), with an error of
    1e-7 or 1e-13, in single or double precision, of the height of a kernel.

    Args:
        p: a mixture; the moving one, where one is.
        q: another of the same class; its covariances may be of another kind.
        variant: one of the above.
        normalisation: `"density"`, or `"peak"` for Gaussians that share one isotropic
            covariance in each mixture: the value is then multiplied by (pi s^2)^(d/2),
            s^2 = 2 (h^2 + g^2) for bandwidths h and g, so that a pair of kernels that
            coincide counts 1 instead of a density. The value does not depend on units,
            and hardly on the bandwidth, so that the weight of a penalty added to it
            means the same at each level of an annealing. With uniform weights and
            h = g it is made of means of exp(-|x_i - y_j|^2 / s^2) over all pairs. No
            effect on `"cauchy_schwarz"`.

    Returns:
        A scalar of the widest dtype of the leaves.

    Raises:
        ValueError: mixtures of different classes, dimensions or static options; unknown
            options; `"peak"` for other mixtures; negative weights with
            `"cauchy_schwarz"`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from transportjax.mixtures import kernel_density, l2_divergence
        >>> x = jnp.array([[0.0, 0.0], [1.0, 0.0]])
        >>> q = kernel_density(x, 0.5)
        >>> def loss(shift):
        ...     p = kernel_density(x + shift[None], 0.5)
        ...     return l2_divergence(p, q, normalisation="peak")
        >>> print(jax.grad(loss)(jnp.array([0.5, 0.0])).round(2))
        [0.55 0.  ]

    References:
        Jian and Vemuri (2011), Robust point set registration using Gaussian mixture
        models, section 3.
        Tsin and Kanade (2004), A correlation-based approach to robust point set
        registration (kernel correlation).
        Grogan and Dahyot (2019), L2 divergence for robust colour transfer (l2e, peak).
    """
    _checks.check_choice("variant", variant, _VARIANTS)
    _checks.check_choice("normalisation", normalisation, ("density", "peak"))
    p, q, dtype = _checked(p, q, positive=variant == "cauchy_schwarz")
    is_peak = normalisation == "peak"
    _checks.check_peak(is_peak, _is_shared_isotropic(p) and _is_shared_isotropic(q))
    return _divergence(p, q, variant, is_peak).astype(dtype)


# --- the terms ---------------------------------------------------------------------

_VARIANTS = ("l2", "l2e", "cross", "kernel_correlation", "cauchy_schwarz")


def _checked(p: M, q: M, *, positive: bool = False) -> tuple[M, M, Any]:
    """Both in the precision to compute with; the dtype to return."""
    _checks.check_mixtures(p, q)
    (p_items, p_kernel), (q_items, q_kernel) = p.items(), q.items()
    _checks.check_mixture_pair(p_items, q_items, same_kernel=p_kernel is q_kernel)
    if positive:
        for name, mixture in (("p", p), ("q", q)):
            weights = mixture.weights
            _checks.check_signed_weights(
                f"{name}.weights", weights, len(weights), positive=True
            )
    leaves, tree = jax.tree.flatten((p, q))
    leaves = _checks.common_float(*(("leaf", leaf) for leaf in leaves))
    dtype = leaves[0].dtype
    work = _checks.working_dtype(dtype)
    p, q = jax.tree.unflatten(tree, [leaf.astype(work) for leaf in leaves])
    return p, q, dtype


def _divergence(p: Any, q: Any, variant: str, is_peak: bool) -> Array:
    is_log = variant == "cauchy_schwarz"
    unit = _peak(p, q) if is_peak else None
    if variant == "l2" and _are_equally_wide(p, q):
        return _l2_of_equal_widths(p, q, unit)
    cross = _product(p, q, unit, is_log=is_log)
    if variant == "cross":
        return -cross
    own = _product(p, p, unit, is_log=is_log)
    if variant == "l2e":
        return own - 2 * cross
    if variant == "kernel_correlation":
        return -(cross / own) * cross
    value = own - 2 * cross + _product(q, q, unit, is_log=is_log)
    # never below zero, with the derivatives of `value`
    return value + lax.stop_gradient(jnp.maximum(value, 0) - value)


def _product(
    p: Any, q: Any, unit: Array | None = None, *, is_log: bool, exact: bool = False
) -> Array:
    """<p, q>, or its logarithm.

    `unit` is the logarithm of what to multiply it by, if anything. Unless `exact`, the
    error may be relative to the product of kernels that coincide.
    """
    if _is_shared_isotropic(p) and _is_shared_isotropic(q):
        peak = _peak(p, q)
        factor = -peak if unit is None else unit - peak
        if is_log:
            return factor + _log_gauss_sum(p, q)
        return jnp.exp(factor) * _gauss_sum(p, q, exact)
    if not is_log and isinstance(p, OrientedMixture) and has_tiles(p, q):
        return overlap_by_tiles(p, q)
    (left, log_kernel), (right, _) = p.items(), q.items()
    total = log_sum_of_pairs if is_log else sum_of_pairs
    return total(log_kernel, Side(left, p.weights), Side(right, q.weights))


# --- Gaussians of one width --------------------------------------------------------


def _is_shared_isotropic(mixture: Any) -> bool:
    return isinstance(mixture, GaussianMixture) and mixture.covariances.shape == (1,)


def _are_equally_wide(p: Any, q: Any) -> bool:
    """Whether both have one bandwidth, known to be the same and to be constant.

    If it were differentiated, the three terms would depend on the two bandwidths in
    different ways.
    """
    if not (_is_shared_isotropic(p) and _is_shared_isotropic(q)):
        return False
    variances = [m.covariances for m in (p, q)]
    if not all(map(_checks.is_concrete, variances)):
        return False
    with jax.ensure_compile_time_eval():
        return bool(variances[0][0] == variances[1][0])


def _scale2(p: GaussianMixture, q: GaussianMixture) -> Array:
    """s^2 = 2 (h^2 + g^2)."""
    return 2 * (p.covariances[0] + q.covariances[0])


def _peak(p: GaussianMixture, q: GaussianMixture) -> Array:
    """The logarithm of (pi s^2)^(d/2)."""
    return p.means.shape[1] / 2 * jnp.log(math.pi * _scale2(p, q))


def _gauss_sum(p: GaussianMixture, q: GaussianMixture, exact: bool) -> Array:
    """The sum of a_i b_j exp(-|x_i - y_j|^2 / s^2)."""
    scale = jnp.sqrt(_scale2(p, q))
    return gauss_sum(
        p.means,
        q.means,
        scale,
        x_weights=p.weights,
        y_weights=q.weights,
        num_modes=() if exact else None,
    )


def _log_gauss_sum(p: GaussianMixture, q: GaussianMixture) -> Array:
    # from a common centre on, so that quotients of points far away do not round
    centre = lax.stop_gradient(jnp.mean(p.means, axis=0))[None, :]
    scale = jnp.sqrt(_scale2(p, q))
    left, right = (Side((m.means - centre) / scale, m.weights) for m in (p, q))
    return log_sum_of_pairs(_log_unit_gaussian, left, right)


def _log_unit_gaussian(x: Array, y: Array) -> Array:
    return -squared_distance(x, y)


def _l2_of_equal_widths(
    p: GaussianMixture, q: GaussianMixture, unit: Array | None
) -> Array:
    """All sums together: of many points, these are squares, which do not cancel."""
    scale = jnp.sqrt(_scale2(p, q))
    value = gauss_l2(
        p.means, q.means, scale, x_weights=p.weights, y_weights=q.weights
    ).l2
    return value if unit is not None else jnp.exp(-_peak(p, q)) * value
