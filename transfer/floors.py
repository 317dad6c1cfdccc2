"""The two floors of every comparison: what no learning, and what counting words, reach on the same examples."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, TypeVar

import numpy as np

MAX_FEATURES = 50_000
MAX_CHOSEN = 5_000  # with more examples the regularisation is not chosen: it would take minutes
PREDICTED = 10_000  # test examples whose words are counted at once
FOLDS = 3
C_GRID = [100.0, 10.0, 1.0]  # of equally good ones the first is taken
# Not sklearn's 1: on rows of length 1 that predicts little but the majority, 0.13 instead of 0.40 with 300 of CLINC150.
TEXT_C = 30.0
ALPHA_GRID = [0.01, 0.1, 1.0, 10.0, 100.0]
# A character of a script without spaces is a token, so that the 1-2-grams of Chinese text are those of its characters.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
TOKEN_PATTERN = f"[{_UNSPACED}]|[^\\W{_UNSPACED}]+"

Inputs = Sequence[str] | Sequence[tuple[str, str]] | np.ndarray
Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True)
class FloorPrediction:
    """One floor on the test examples.

    Attributes:
        predictions: for each example a label name; with several labels a list of names; for a regression a number.
        scores: the probability of what was predicted (with several labels: of the whole set); None for a regression.
    """

    predictions: list[Any]
    scores: list[float] | None


def classification_floors(
    train_inputs: Inputs,
    train_labels: Sequence[Any],
    test_inputs: Inputs,
    label_names: Sequence[str],
    multi_label: bool = False,
) -> dict[str, FloorPrediction]:
    """The floor `majority`, and `tfidf` (texts, pairs of texts) or `linear` (a matrix of features, one row an example).

    `tfidf` is logistic regression on TF-IDF of 1-2-grams, `linear` the same on standardised features. A label is a name
    or its place in `label_names`; with `multi_label` each example has a list of them, and the majority is the most
    frequent list. Where nothing can be learned (one class, no word) the second floor equals the first.
    """
    assert len(train_inputs) == len(train_labels) > 0, f"{len(train_inputs)} inputs for {len(train_labels)} labels"
    places = {name: i for i, name in enumerate(label_names)}

    def place(label: Any) -> int:
        return int(label) if isinstance(label, Integral) else places[label]

    key, features = _features(train_inputs, test_inputs)
    names: Any
    if multi_label:
        sets = [tuple(sorted({place(label) for label in labels})) for labels in train_labels]
        common_set, share = _most_frequent(sets)
        names = [label_names[i] for i in common_set]
        learned = _fit_sets(*features, sets, label_names) if features and any(sets) else None
    else:
        classes = [place(label) for label in train_labels]
        common, share = _most_frequent(classes)
        names = label_names[common]
        learned = _fit_classes(*features, classes, label_names) if features and len(set(classes)) > 1 else None
    majority = FloorPrediction([names for _ in test_inputs], [share for _ in test_inputs])
    return {"majority": majority, key: learned or majority}


def regression_floors(
    train_inputs: Inputs, train_labels: Sequence[float], test_inputs: Inputs
) -> dict[str, FloorPrediction]:
    """The floor `mean`, and ridge regression on what `classification_floors` counts: `tfidf` or `linear`."""
    assert len(train_inputs) == len(train_labels) > 0, f"{len(train_inputs)} inputs for {len(train_labels)} labels"
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold

    labels = np.asarray(train_labels, dtype=np.float64)
    mean = FloorPrediction([float(labels.mean()) for _ in test_inputs], None)
    key, features = _features(train_inputs, test_inputs)
    if not features:
        return {"mean": mean, key: mean}
    train, test = features
    folds = KFold(FOLDS, shuffle=True, random_state=0) if len(labels) >= 5 * FOLDS else None
    model = _fit(Ridge(), {"alpha": ALPHA_GRID}, train, labels, folds, "neg_mean_squared_error")
    return {"mean": mean, key: FloorPrediction(np.concatenate([model.predict(part) for part in test]).tolist(), None)}


def _most_frequent(values: Sequence[Value]) -> tuple[Value, float]:
    """The most frequent value, of equals the smallest, and its share."""
    counts = Counter(values)
    value = min(counts, key=lambda value: (-counts[value], value))
    return value, counts[value] / len(values)


def _fit_classes(train: Any, test: Any, labels: list[int], label_names: Sequence[str]) -> FloorPrediction:
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold

    counts = Counter(labels)
    # with many classes and words lbfgs takes several times as long as saga, which in turn is slow on dense features
    is_text = sparse.issparse(train)
    many = is_text and len(counts) > 2
    settings = {"solver": "saga", "max_iter": 100, "tol": 1e-3} if many else {"solver": "lbfgs", "max_iter": 1000}
    model = LogisticRegression(C=TEXT_C if is_text else 1.0, random_state=0, **settings)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0) if min(counts.values()) >= 2 * FOLDS else None
    fitted = _fit(model, {"C": C_GRID}, train, np.array(labels), folds, "accuracy")
    probabilities = np.concatenate([fitted.predict_proba(part) for part in test])
    best = probabilities.argmax(axis=1)
    predictions = [label_names[fitted.classes_[i]] for i in best]
    return FloorPrediction(predictions, probabilities[np.arange(len(best)), best].tolist())


def _fit_sets(train: Any, test: Any, sets: list[tuple[int, ...]], label_names: Sequence[str]) -> FloorPrediction:
    """One logistic regression a label, each predicted from a probability of one half on."""
    from scipy import sparse
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import KFold
    from sklearn.multiclass import OneVsRestClassifier

    hot = np.zeros((len(sets), len(label_names)), dtype=int)
    for row, labels in enumerate(sets):
        hot[row, list(labels)] = 1
    one = LogisticRegression(C=TEXT_C if sparse.issparse(train) else 1.0, solver="liblinear", random_state=0)
    model = OneVsRestClassifier(one)
    folds = KFold(FOLDS, shuffle=True, random_state=0) if hot.sum(axis=0).min() >= 2 * FOLDS else None
    fitted = _fit(model, {"estimator__C": C_GRID}, train, hot, folds, "f1_micro")
    probabilities = np.concatenate([fitted.predict_proba(part) for part in test])
    chosen = probabilities >= 0.5
    predictions = [[name for name, is_in in zip(label_names, row, strict=True) if is_in] for row in chosen]
    return FloorPrediction(predictions, np.where(chosen, probabilities, 1 - probabilities).prod(axis=1).tolist())


def _fit(model: Any, grid: dict[str, list[float]], train: Any, labels: np.ndarray, folds: Any, scoring: str) -> Any:
    """The fitted model, its regularisation chosen on `folds` unless there are none or too many examples."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import GridSearchCV

    with warnings.catch_warnings():
        # a floor stopped early is still a floor; and a label that all or no examples have is predicted as a constant
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", message="Label .* present in")
        if folds is None or len(labels) > MAX_CHOSEN:
            return model.fit(train, labels)
        return GridSearchCV(model, grid, cv=folds, scoring=scoring).fit(train, labels).best_estimator_


def _features(train: Inputs, test: Inputs) -> tuple[str, tuple[Any, Any] | None]:
    """(name of the floor, (train matrix, parts of the test matrix) or None where there is nothing to do)."""
    first = train[0]
    is_text = isinstance(first, str)
    is_pair = not is_text and len(first) == 2 and isinstance(first[0], str)
    if not is_text and not is_pair:
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(np.asarray(train, dtype=np.float64))
        scaled = [scaler.transform(np.asarray(part, dtype=np.float64)) for part in (train, test) if len(part)]
        return "linear", (scaled[0], [scaled[1]]) if len(scaled) == 2 else None
    return "tfidf", _tfidf(list(train), list(test), is_pair) if len(test) else None


def _tfidf(train: list[Any], test: list[Any], is_pair: bool) -> tuple[Any, Any] | None:
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [text for pair in train for text in pair] if is_pair else train
    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_FEATURES, token_pattern=TOKEN_PATTERN, dtype=np.float32
    )
    try:
        counted = vectorizer.fit_transform(texts)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        return None
    parts = (test[begin : begin + PREDICTED] for begin in range(0, len(test), PREDICTED))
    if not is_pair:
        return counted, (vectorizer.transform(part) for part in parts)
    sides = (([pair[side] for pair in part] for side in (0, 1)) for part in parts)
    return _paired(counted[0::2], counted[1::2]), (_paired(*map(vectorizer.transform, part)) for part in sides)


def _paired(left: Any, right: Any) -> Any:
    """Columns of a pair: both texts, the words that they share, and their cosine (rows of TF-IDF have length 1)."""
    from scipy import sparse

    shared = left.multiply(right).tocsr()
    return sparse.hstack([left, right, shared, sparse.csr_matrix(shared.sum(axis=1))], format="csr", dtype=np.float32)
