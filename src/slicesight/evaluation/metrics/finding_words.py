"""By which words are CT-RATE's 18 findings named in a report? One list of patterns per finding, in its order.

The patterns meet lower-case English with single spaces, misspellings of `VOCABULARY` put right. The findings are
CT-RATE's (Hamamci et al. 2024, arXiv 2403.17834); what counts as one follows its reports, for instance "calcific
atheroma plaques" in the aorta as arterial wall calcification.
"""

from __future__ import annotations

import re

from slicesight.data.sources.ct_rate import FINDINGS

_CALCIFIED = r"(?:calcif\w+|calcific|athero\w+|plaques?)"
_ARTERY = r"(?:aort\w+|(?<!coronary )arter(?:y|ies|ial)|vascular|vessels?|carotid\w*|subclavian|supraaortic)"
_CORONARY = r"(?:coronar\w+|\blad\b|left anterior descending|circumflex)"
_NEAR = r"(?:(?!\b(?:lymph|node|nodes|nodule|granuloma\w*)\b)[^.;]){0,60}?"
_NOT_LUNG = r"(?:thyroid|adrenal|hepatic|liver|renal|kidney|breast|splenic|spleen|pancrea\w+|soft tissue|skin)"
_NODULE = r"(?:micro)?nodul(?:e|es|ar|arity|ation)"
_WALL = r"(?:thicken\w+|thickness(?:es)?(?: increases?)?)"
_BRONCHI = r"(?:peri)?bronch(?:us|i|ial|ovascular|oarterial)"
_SEPTA = r"sept(?:al|a|ae|um)"
_EFFUSION = r"(?:effusions?|fluid|fluids)"

_PATTERNS: dict[str, tuple[str, ...]] = {
    "Medical material": (
        r"\b(?:catheters?|pacemakers?|stents?|prosthe(?:sis|ses|tic)|defibrillators?|implants?|electrodes?|cannulas?)\b",
        (
            r"\b(?:sternotomy|sternal|suture|metallic|metal|surgical|medical)(?: and \w+)? (?:wires?|clips?|sutures?|"
            r"materials?|devices?|hardware|plates?)\b"
        ),
        r"\b(?:chest|endotracheal|intubation|tracheostomy|nasogastric|drainage|feeding|thoracic) (?:tubes?|drains?)\b",
        r"\b(?:subclavian|jugular|chest|catheter|venous) ports?\b",
        r"\b(?:drains?|picc|port-a-cath|valve replacement|bypass grafts?|cabg|clips|sutures|tracheostomy)\b",
    ),
    "Arterial wall calcification": (
        rf"\b{_CALCIFIED}\b{_NEAR}\b{_ARTERY}\b",
        rf"\b{_ARTERY}\b(?: (?:wall|arch|artery|arteries|and|coronary))* {_CALCIFIED}\b",
        (
            rf"\b{_ARTERY}\b[^.;,]{{0,40}}\b(?:is|are|with|without|show|shows) (?:no |mild |severe |diffuse |wall )*"
            rf"{_CALCIFIED}\b"
        ),
    ),
    "Cardiomegaly": (
        r"\bcardiomegal\w+",
        r"\b(?:enlarged|dilated|increased) (?:heart|cardiac)\b",
        (
            r"\b(?:heart|cardiac)(?: (?:size|sizes|silhouette|dimensions?|contours?|chambers))?"
            r" (?:(?:is|are|has|have|was|were|appears?|not|mildly|moderately|markedly|slightly|no|longer|been|"
            r"significantly|also|looks) )*(?:enlarged|increased|dilated|large)\b"
        ),
        r"\b(?:enlargement|dilatation|increase in (?:the )?size) of the heart\b",
        r"\bcardiac enlargement\b",
        r"\bcardiothoracic (?:index|ratio)(?: (?:is|has|was|not))* increased\b",
    ),
    "Pericardial effusion": (
        rf"\bpericardial(?:(?: and| or|,|/|-) ?pleural)? {_EFFUSION}\b",
        rf"\bpleural(?: and| or|,|/|-) ?pericardial {_EFFUSION}\b",
        rf"\b{_EFFUSION} (?:in|within|of|around) the pericardi\w+",
        r"\bhemopericardium\b",
    ),
    "Coronary artery wall calcification": (
        rf"\b{_CALCIFIED}\b{_NEAR}\b{_CORONARY}",
        (
            rf"\b{_CORONARY}(?: (?:artery|arteries|arterial|vessels?|wall|disease))*"
            rf"(?: (?:are|is|show|shows|with|without|free|of|no|mild|severe|diffuse|wall|\w+ly))* {_CALCIFIED}\b"
        ),
    ),
    "Hiatal hernia": (
        r"\bhiat(?:al|us) herni\w+",
        r"\b(?:sliding(?: type)?|paraesophageal|gastric|diaphragmatic hiatal) herni\w+",
        r"\bhernia\w* (?:at|of|through) the (?:esophageal )?hiatus\b",
    ),
    "Lymphadenopathy": (
        r"\b(?:lymph)?adenopath(?:y|ies|ic)\b",
        r"\b(?:enlarged|pathological(?:ly enlarged)?|pathologic)(?: \w+){0,2} (?:lymph )?nodes?\b",
        (
            r"\blymph nodes?(?: (?:that|which|is|are|was|were|appears?|not|mildly|in|with|of|reaching|a|have|has|no|"
            r"longer|seen|the|and))* (?:enlarged|enlargement|pathological)\b"
        ),
    ),
    "Emphysema": (r"\b(?<!subcutaneous )(?<!mediastinal )(?<!surgical )(?<!soft tissue )emphysem\w+",),
    "Atelectasis": (
        r"\b(?:fibro)?atelecta\w+",
        r"\bcollapsed?(?: of)?(?: the)?(?: (?:right|left|entire))?(?: (?:upper|middle|lower))? (?:lobe|lung)\b",
        r"\b(?:lobar|segmental|subsegmental) collapse\b",
    ),
    "Lung nodule": (
        (
            rf"\b(?<!thyroid )(?<!adrenal )(?<!hepatic )(?<!liver )(?<!renal )(?<!breast ){_NODULE}\b"
            rf"(?!(?: \w+){{0,2}} (?:in|of) the (?:\w+ ){{0,2}}{_NOT_LUNG})"
        ),
    ),
    "Lung opacity": (
        r"\bopacit(?:y|ies)\b",
        r"\bopacification\w*",
        r"\b(?:ground|frosted)[ -]glass\b",
        r"\binfiltrat(?:e|es|ion|ions|ive)\b",
        r"\b(?:density increases?|increased densit(?:y|ies)|increases? in density)\b",
    ),
    "Pulmonary fibrotic sequela": (
        r"\bfibro(?:sis|tic|us)\b",
        r"\bsequela\w*",
        r"\bscar(?:s|ring|red)?\b",
        r"\b(?:parenchymal|fibrous) bands?\b",
        r"\bhoneycomb\w*",
    ),
    "Pleural effusion": (
        rf"\bpleural(?:(?: and| or|,|/|-) ?pericardial)? {_EFFUSION}\b",
        rf"\bpericardial(?: and| or|,|/|-) ?pleural {_EFFUSION}\b",
        r"\b(?:hydro|hemo|haemo|chylo)thorax\b",
        rf"\b{_EFFUSION} (?:in|within) the (?:\w+ )?(?:pleura\w*|hemithorax|costophrenic)\b",
        r"\b(?<!pericardial )(?<!pleural )(?<!joint )(?<!knee )effusions?\b(?! in the (?:knee|joint|pericard))",
    ),
    "Mosaic attenuation pattern": (r"\bmosaic (?:attenuation|perfusion|pattern|density|densities|appearance)\b",),
    "Peribronchial thickening": (
        rf"\b{_BRONCHI}(?: walls?)? (?:{_WALL}|cuffing)\b",
        rf"\b{_WALL} (?:of|in) the {_BRONCHI} walls?\b",
        rf"\bthickened {_BRONCHI} walls?\b",
        rf"\b{_BRONCHI} walls? (?:(?:is|are|not|appear|mildly|slightly|no|longer) )*thickened\b",
    ),
    "Consolidation": (r"\bconsolidat\w+",),
    "Bronchiectasis": (
        r"\bbronchiecta\w+",
        r"\b(?:dilated|ectatic) bronch(?:i|us)\b",
        r"\bbronchial (?:dilatation|dilation|ectasia)s?\b",
        r"\bdilat(?:at)?ion of the bronchi\b",
    ),
    "Interlobular septal thickening": (
        rf"\b(?:interlobular )?(?<!interventricular )septal {_WALL}\b",
        rf"\b{_WALL} (?:of|in) the interlobular {_SEPTA}\b",
        rf"\bthickened interlobular {_SEPTA}\b",
        rf"\binterlobular {_SEPTA} (?:(?:is|are|not|appear|mildly|no|longer) )*thickened\b",
    ),
}
PATTERNS = {name: tuple(re.compile(pattern) for pattern in _PATTERNS[name]) for name in FINDINGS}

VOCABULARY = (
    "catheter", "pacemaker", "prosthesis", "endotracheal", "tracheostomy", "nasogastric", "calcification",
    "calcifications", "calcified", "atheroma", "atherosclerosis", "cardiomegaly", "enlarged", "enlargement",
    "pericardial", "effusion", "effusions", "pleural", "coronary", "hiatal", "hernia", "lymphadenopathy",
    "lymphadenopathies", "adenopathy", "emphysema", "emphysematous", "atelectasis", "atelectases", "atelectatic",
    "nodule", "nodules", "opacity", "opacities", "infiltration", "infiltrate", "fibrosis", "fibrotic", "sequela",
    "sequelae", "mosaic", "attenuation", "peribronchial", "bronchial", "thickening", "thickened", "consolidation",
    "consolidations", "consolidated", "bronchiectasis", "bronchiectases", "bronchiectatic", "interlobular", "septal",
    "without", "absent", "resolved", "observed", "pneumothorax", "bilateral", "density", "increase",
)  # fmt: skip
"""Words that a misspelling by one letter is taken for."""
REAL_WORDS = frozenset(
    {
        "infusion", "infusions", "effusive", "epicardial", "opaque", "capacity", "sepal", "septate", "resolve",
        "absence", "observe", "observes", "enlarge", "thicken", "thickens", "increased", "increases",
        "module", "modules", "hernias", "noduli",
    }
)  # fmt: skip
"""Near a word of the vocabulary, but words of their own."""

LOCATIONS = {
    "upper lobe": r"\bupper (?:lobes?|zones?)\b",
    "middle lobe": r"\bmiddle (?:lobes?|zones?)\b",
    "lower lobe": r"\blower (?:lobes?|zones?)\b",
    "lingula": r"\blingula\w*",
    "apex": r"\bap(?:ex|ices|ical)\b",
    "base": r"\b(?:bases?|basal|basilar|bibasal|bibasilar|laterobasal|posterobasal)\b",
    "hilum": r"\b(?:hil(?:um|a|ar)|perihilar)\b",
    "mediastinum": r"\b(?:mediastin(?:um|al)|paratracheal|subcarinal|prevascular)\b",
    "axilla": r"\baxill(?:a|ae|ary)\b",
    "subpleural": r"\b(?:subpleural|peripheral\w*)\b",
}
PLACES = {name: re.compile(pattern) for name, pattern in LOCATIONS.items()}
BOTH_SIDES = re.compile(r"\b(?:bilateral\w*|both|bibasal|bibasilar|left and right|right and left|either)\b")
ONE_SIDE = {"left": re.compile(r"\bleft\b"), "right": re.compile(r"\bright\b")}
