//! JSON whose fields keep their order, for tables and field lists.

use std::fmt;

use serde::Serialize;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// A JSON value; scalars as text.
#[derive(Debug, Clone, PartialEq)]
pub enum Ordered {
    Text(String),
    /// Numbers, booleans and null: printed without quotes.
    Plain(String),
    List(Vec<Ordered>),
    Fields(Vec<(String, Ordered)>),
}

impl Ordered {
    pub fn of<T: Serialize>(value: &T) -> Self {
        let text = serde_json::to_string(value).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or(Ordered::Plain(String::new()))
    }

    fn cell(&self) -> String {
        match self {
            Ordered::Text(text) | Ordered::Plain(text) => text.clone(),
            Ordered::List(items) => items
                .iter()
                .map(Ordered::cell)
                .collect::<Vec<_>>()
                .join(", "),
            Ordered::Fields(fields) => {
                let pairs = fields
                    .iter()
                    .map(|(name, value)| format!("{name}={}", value.cell()));
                pairs.collect::<Vec<_>>().join(" ")
            }
        }
    }

    /// The scalars as a table of one row, then each list of objects as a table of its own.
    pub fn table(&self) -> String {
        let Ordered::Fields(fields) = self else {
            return rows(std::slice::from_ref(self));
        };
        let is_rows = |value: &Ordered| matches!(value, Ordered::List(items) if matches!(items.first(), Some(Ordered::Fields(_))));
        let (lists, single): (Vec<_>, Vec<_>) = fields
            .iter()
            .filter(|(name, _)| name != "schema")
            .cloned()
            .partition(|(_, value)| is_rows(value));
        let mut tables = Vec::new();
        if !single.is_empty() {
            tables.push(rows(&[Ordered::Fields(single)]));
        }
        for (name, value) in lists {
            if let Ordered::List(items) = value {
                tables.push(format!("{}\n{}", name.to_uppercase(), rows(&items)));
            }
        }
        tables.join("\n")
    }

    pub fn fields(&self) -> String {
        let mut lines = Vec::new();
        self.flatten("", &mut lines);
        lines.join("\n")
    }

    fn flatten(&self, name: &str, lines: &mut Vec<String>) {
        match self {
            Ordered::Text(text) => lines.push(format!("{name:?} : {text:?}")),
            Ordered::Plain(text) => lines.push(format!("{name:?} : {text}")),
            Ordered::List(items) => {
                for (at, item) in items.iter().enumerate() {
                    item.flatten(&format!("{name}.{at}"), lines);
                }
            }
            Ordered::Fields(fields) => {
                for (field, value) in fields {
                    let name = match name {
                        "" => field.clone(),
                        name => format!("{name}.{field}"),
                    };
                    value.flatten(&name, lines);
                }
            }
        }
    }
}

/// Objects of the same fields as a table.
pub fn rows(items: &[Ordered]) -> String {
    let Some(Ordered::Fields(first)) = items.first() else {
        return items
            .iter()
            .map(Ordered::cell)
            .collect::<Vec<_>>()
            .join("\n");
    };
    let names: Vec<&String> = first.iter().map(|(name, _)| name).collect();
    let mut grid: Vec<Vec<String>> = vec![
        names
            .iter()
            .map(|name| name.to_uppercase().replace('_', " "))
            .collect(),
    ];
    for item in items {
        if let Ordered::Fields(fields) = item {
            let cell = |name: &&String| {
                let found = fields.iter().find(|(field, _)| field == *name);
                found.map_or_else(String::new, |(_, value)| value.cell())
            };
            grid.push(names.iter().map(cell).collect());
        }
    }
    let widths: Vec<usize> = (0..names.len())
        .map(|column| {
            grid.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = || {
        let parts: Vec<_> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
        format!("+{}+", parts.join("+"))
    };
    let mut out = vec![line()];
    for (number, row) in grid.iter().enumerate() {
        let cells: Vec<_> = row
            .iter()
            .zip(&widths)
            .map(|(cell, width)| format!(" {cell}{} ", " ".repeat(width - cell.chars().count())))
            .collect();
        out.push(format!("|{}|", cells.join("|")));
        if number == 0 {
            out.push(line());
        }
    }
    out.push(line());
    out.join("\n")
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Ordered;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Ordered, E> {
        Ok(Ordered::Plain(value.to_string()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Ordered, E> {
        Ok(Ordered::Plain(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Ordered, E> {
        Ok(Ordered::Plain(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Ordered, E> {
        Ok(Ordered::Plain(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Ordered, E> {
        Ok(Ordered::Text(value.to_owned()))
    }

    fn visit_unit<E>(self) -> Result<Ordered, E> {
        Ok(Ordered::Plain("-".to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Ordered, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Ordered::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
        let mut fields = Vec::new();
        while let Some(field) = map.next_entry()? {
            fields.push(field);
        }
        Ok(Ordered::Fields(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_fields_keep_the_order_of_the_fields() {
        let value: Ordered = serde_json::from_str(
            r#"{"schema":"s","z":1,"a":"x","rows":[{"k":"one","n":1},{"k":"two","n":22}]}"#,
        )
        .unwrap();
        assert_eq!(
            value.fields().lines().collect::<Vec<_>>(),
            [
                "\"schema\" : \"s\"",
                "\"z\" : 1",
                "\"a\" : \"x\"",
                "\"rows.0.k\" : \"one\"",
                "\"rows.0.n\" : 1",
                "\"rows.1.k\" : \"two\"",
                "\"rows.1.n\" : 22"
            ]
        );
        let table = value.table();
        assert!(table.starts_with("+---+---+\n| Z | A |"), "{table}");
        assert!(
            table.contains("ROWS\n+-----+----+\n| K   | N  |"),
            "{table}"
        );
    }
}
