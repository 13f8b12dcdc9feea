"""Make the outlines of countries that ship: ``python -m data_prep.country_outlines [PATH]``.

The shapes are Natural Earth's, 1:110 million (https://www.naturalearthdata.com, public domain). It
draws borders as they are held, which is not always as they are claimed, and leaves out countries
smaller than about 2,500 square kilometres. PATH is its shapefile ``ne_110m_admin_0_countries`` or
the copy among the test files of pyogrio, which is also the default.
"""

import sys
from pathlib import Path

import geopandas as gpd
import pyarrow as pa
import pyarrow.parquet as pq

from ecomap.errors import DataError

RESOURCE_PATH = Path(__file__).parent / "resources" / "countries.parquet"
SOURCE = "Natural Earth 1:110m Admin 0 countries, https://www.naturalearthdata.com"
LICENSE = "Public domain"

FULL_NAMES = {
    "Bosnia and Herz.": "Bosnia and Herzegovina",
    "Central African Rep.": "Central African Republic",
    "Dem. Rep. Congo": "Democratic Republic of the Congo",
    "Dominican Rep.": "Dominican Republic",
    "Eq. Guinea": "Equatorial Guinea",
    "Falkland Is.": "Falkland Islands",
    "Fr. S. Antarctic Lands": "French Southern and Antarctic Lands",
    "Macedonia": "North Macedonia",
    "N. Cyprus": "Northern Cyprus",
    "S. Sudan": "South Sudan",
    "Solomon Is.": "Solomon Islands",
    "W. Sahara": "Western Sahara",
    "eSwatini": "Eswatini",
}
"""Names that the source shortens or that have changed."""

OTHER_NAMES = {
    "Bahamas": ("The Bahamas",),
    "Congo": ("Republic of the Congo", "Congo-Brazzaville"),
    "Czechia": ("Czech Republic",),
    "Côte d'Ivoire": ("Ivory Coast",),
    "Democratic Republic of the Congo": ("DR Congo", "DRC", "Congo-Kinshasa"),
    "Eswatini": ("Swaziland",),
    "Gambia": ("The Gambia",),
    "Myanmar": ("Burma",),
    "Netherlands": ("The Netherlands", "Holland"),
    "North Macedonia": ("Macedonia",),
    "Russia": ("Russian Federation",),
    "South Korea": ("Republic of Korea", "Korea"),
    "Timor-Leste": ("East Timor",),
    "Turkey": ("Türkiye",),
    "United Kingdom": ("UK", "Great Britain", "Britain"),
    "United States of America": ("United States", "USA", "US", "America"),
    "Vietnam": ("Viet Nam",),
}
"""Further names by which people ask for a country."""

CODES_WITHOUT_ISO = {"France": "FRA", "Norway": "NOR", "Kosovo": "XKX"}
"""Codes that the source leaves out; Kosovo's is in common use, not in ISO 3166."""

_ISO_A2 = """
AFGAF AGOAO ALBAL AREAE ARGAR ARMAM ATAAQ ATFTF AUSAU AUTAT AZEAZ BDIBI BELBE BENBJ BFABF BGDBD
BGRBG BHSBS BIHBA BLRBY BLZBZ BOLBO BRABR BRNBN BTNBT BWABW CAFCF CANCA CHECH CHLCL CHNCN CIVCI
CMRCM CODCD COGCG COLCO CRICR CUBCU CYPCY CZECZ DEUDE DJIDJ DNKDK DOMDO DZADZ ECUEC EGYEG ERIER
ESHEH ESPES ESTEE ETHET FINFI FJIFJ FLKFK FRAFR GABGA GBRGB GEOGE GHAGH GINGN GMBGM GNBGW GNQGQ
GRCGR GRLGL GTMGT GUYGY HNDHN HRVHR HTIHT HUNHU IDNID INDIN IRLIE IRNIR IRQIQ ISLIS ISRIL ITAIT
JAMJM JORJO JPNJP KAZKZ KENKE KGZKG KHMKH KORKR KWTKW LAOLA LBNLB LBRLR LBYLY LKALK LSOLS LTULT
LUXLU LVALV MARMA MDAMD MDGMG MEXMX MKDMK MLIML MMRMM MNEME MNGMN MOZMZ MRTMR MWIMW MYSMY NAMNA
NCLNC NERNE NGANG NICNI NLDNL NORNO NPLNP NZLNZ OMNOM PAKPK PANPA PERPE PHLPH PNGPG POLPL PRIPR
PRKKP PRTPT PRYPY PSEPS QATQA ROURO RUSRU RWARW SAUSA SDNSD SENSN SLBSB SLESL SLVSV SOMSO SRBRS
SSDSS SURSR SVKSK SVNSI SWESE SWZSZ SYRSY TCDTD TGOTG THATH TJKTJ TKMTM TLSTL TTOTT TUNTN TURTR
TWNTW TZATZ UGAUG UKRUA URYUY USAUS UZBUZ VENVE VNMVN VUTVU XKXXK YEMYE ZAFZA ZMBZM ZWEZW
"""
ISO_A2 = {pair[:3]: pair[3:] for pair in _ISO_A2.split()}
"""Three-letter code -> two-letter code."""


def fixture_path() -> Path:
    """Copy of the source among the test files that pyogrio's wheels carry."""
    import pyogrio

    folder = Path(pyogrio.__file__).parent / "tests" / "fixtures" / "naturalearth_lowres"
    return folder / "naturalearth_lowres.shp"


def make_outlines(path: Path) -> gpd.GeoDataFrame:
    """Read the source and give its countries full names and codes.

    Returns:
        Columns ``name``, ``iso_a2``, ``iso_a3`` (empty where there is none), ``other_names``
        (separated by ``;``) and ``geometry`` (EPSG:4326), sorted by name.

    Raises:
        DataError: If the file is missing or has not the source's columns.
    """
    if not path.exists():
        raise DataError(
            f"{path} does not exist. Give the path of Natural Earth's shapefile "
            "ne_110m_admin_0_countries."
        )
    frame = gpd.read_file(path)
    columns = {str(name).lower(): name for name in frame.columns}
    if not {"name", "iso_a3"} <= set(columns):
        raise DataError(f"{path} has columns {list(frame.columns)}. Expected NAME and ISO_A3.")
    names = [FULL_NAMES.get(name, name) for name in frame[columns["name"]]]
    codes = [
        CODES_WITHOUT_ISO.get(name, "" if code == "-99" else code)
        for name, code in zip(names, frame[columns["iso_a3"]], strict=True)
    ]
    table = {
        "name": names,
        "iso_a2": [ISO_A2.get(code, "") for code in codes],
        "iso_a3": codes,
        "other_names": [";".join(OTHER_NAMES.get(name, ())) for name in names],
    }
    outlines = gpd.GeoDataFrame(table, geometry=frame.geometry.to_crs("EPSG:4326").array)
    return outlines.sort_values("name", ignore_index=True)


def write_outlines(outlines: gpd.GeoDataFrame, path: Path = RESOURCE_PATH) -> None:
    """Write outlines as GeoParquet that names source and licence, by an atomic rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    outlines.to_parquet(temporary, index=False, compression="zstd")
    table = pq.read_table(temporary)
    about = {b"source": SOURCE.encode(), b"license": LICENSE.encode()}
    kept = {key: value for key, value in table.schema.metadata.items() if key != b"pandas"}
    pq.write_table(
        pa.table(table.columns, schema=table.schema.with_metadata(kept | about)),
        temporary,
        compression="zstd",
    )
    temporary.replace(path)


if __name__ == "__main__":
    write_outlines(make_outlines(Path(sys.argv[1]) if len(sys.argv) > 1 else fixture_path()))
