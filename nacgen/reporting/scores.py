"""Scores of one set of images as text."""

from nacgen.metrics.result import EvaluationResult


def score_text(result: EvaluationResult) -> str:
    """Return one line for each score: its name, its value, and what is known of its error and bias."""
    width = max(map(len, result.scores))
    lines = []
    for name, score in result.scores.items():
        facts = []
        if score.spread is not None:
            facts.append(f"± {score.spread:.3g}, {score.spread_kind}")
        if score.bias:
            facts.append(f"independent samples of one Gaussian would score about {score.bias:.3g}")
        lines.append(f"{name:<{width}}  {score.value:<11.6g} {'; '.join(facts)}".rstrip())
    return "\n".join(lines)
