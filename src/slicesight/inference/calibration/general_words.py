"""In which words may anybody ask about a scan, whatever a model was taught?

Words of English that carry a question, and those for the scan itself. No organ, no finding, no measure, no person, no
treatment: these must have been taught.
"""

from __future__ import annotations

_FUNCTION = """
    a an the this that these those it its they them their there here i me my we us our you your he she his her is
    are was were be been being am do does did done doing has have had having can could will would shall should may
    might must of in on at by for from to into onto with within without as and or but if then than so not no nor
    what which who whom whose where when why how any some all each every both either neither one other another
    same such only just also too very more most much many few least less up down out over under about between
    among across through during before after please yes s t d re ve ll
"""
_GENERAL = """
    scan scans image imaging imaged picture pictured study examination exam series volume stack slice data dataset
    section cut view viewed acquisition acquire acquired body part area structure organ question answer option
    choice choose select pick list name identify tell say state give describe explain report summary summarise
    summarize write written show shown showing see seen visible visualise visualised visualize visualized display
    displayed depict depicted present appear appears find found finding locate located location position
    positioned place placed lie lies lying situated side contain contains contained include included cover covered
    covering hold holding extend extends reach reaches belong belongs correspond corresponds represent represents
    look looking looks read reading determine decide recognise recognize recognised recognized detect detected
    indicate mention according based following given provided available current particular specific certain kind
    type sort class category main correct right left true false best likely likeliest probable probably actually
    exactly mainly mostly first second third last next top bottom upper lower middle front back half whole entire
    full complete direction oriented orientation way use used using made make taken take number know known think
    believe ask asked want like need let us help detail detailed briefly short brief sentence word words phrase
    note noted anything something thing nothing none everything anywhere somewhere nowhere single out stand
    evident apparent observe observed notice noticed captured capture obtained obtain recorded record produced
    involved concerned affected range ranges level levels
    further scanned scanning above below near nearer nearest close closer far beside behind around inside outside
    seem seems appears go goes going come comes get gets able possible sure wonder check confirm inform provide point
    specify clarify assess evaluate interpret inspect examine review overview summarised summarized together remaining
    interested interest mean means meant refer refers considered concern piece portion segment term
    fall falls fell foot feet axis axes equal equally crop cropped span spans spanning cross maximum minimum max min
    space superior inferior toward towards lay laid begin begins start starts end ends stop stops yes n y hello hi
    thanks thank quick quickly
    call called whether cannot couldn couldnt list listed two three four five six seven eight nine ten zero half
"""
FUNCTION_WORDS = frozenset(_FUNCTION.split())
GENERAL_WORDS = FUNCTION_WORDS | frozenset(_GENERAL.split())
