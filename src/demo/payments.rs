//! The server that moves money, in memory: what is refunded stays refunded until the demo ends.

use serde_json::{Map, Value, json};

use super::handler::{ToolAnswer, text_of};

pub(super) const INSTRUCTIONS: &str = "Look at an invoice before you refund it.";

/// The invoices, as they stand.
#[derive(Debug)]
pub(super) struct Payments {
    invoices: Vec<Invoice>,
    refunds: usize,
}

#[derive(Debug)]
struct Invoice {
    id: &'static str,
    customer: &'static str,
    currency: &'static str,
    cents: u64,
    refunded: u64,
}

impl Payments {
    pub(super) fn new() -> Self {
        let invoice = |id, customer, currency, cents| Invoice { id, customer, currency, cents, refunded: 0 };
        let invoices = vec![
            invoice("INV-1001", "Ada Example", "EUR", 12_000),
            invoice("INV-1002", "Grace Example", "USD", 4_950),
            invoice("INV-1003", "Linus Example", "EUR", 73_999),
        ];
        Self { invoices, refunds: 0 }
    }

    /// Calls a tool; `None` where there is none of that name.
    pub(super) fn call(&mut self, tool: &str, arguments: &Map<String, Value>) -> Option<ToolAnswer> {
        Some(match tool {
            "list_invoices" => Ok(self.list()),
            "get_invoice" => self.find(arguments).map(|at| (self.invoices[at].words(), self.invoices[at].value())),
            "refund" => self.refund(arguments),
            "delete_invoice" => self.find(arguments).map(|at| {
                let gone = self.invoices.remove(at);
                (format!("Deleted invoice {}.", gone.id), json!({ "deleted": gone.id }))
            }),
            _ => return None,
        })
    }

    fn list(&self) -> (String, Value) {
        let words: Vec<String> = self.invoices.iter().map(Invoice::words).collect();
        let values: Vec<Value> = self.invoices.iter().map(Invoice::value).collect();
        (words.join("\n"), json!({ "invoices": values }))
    }

    fn refund(&mut self, arguments: &Map<String, Value>) -> ToolAnswer {
        let at = self.find(arguments)?;
        let invoice = &mut self.invoices[at];
        let currency = text_of(arguments, "currency")?;
        if currency != invoice.currency {
            return Err(format!("Invoice {} is in {}, not in {currency}.", invoice.id, invoice.currency));
        }
        let cents =
            cents(arguments.get("amount")).ok_or("'amount' must be a number above 0 with at most two decimals.")?;
        let left = invoice.cents - invoice.refunded;
        if cents > left {
            return Err(format!("Only {currency} {} of invoice {} can still be refunded.", money(left), invoice.id));
        }
        invoice.refunded += cents;
        self.refunds += 1;
        let (id, left) = (format!("REF-{}", self.refunds), money(left - cents));
        let text = format!("Refunded {currency} {} of invoice {} ({id}); {left} is left.", money(cents), invoice.id);
        Ok((text, json!({ "refund_id": id, "invoice": invoice.value() })))
    }

    fn find(&self, arguments: &Map<String, Value>) -> Result<usize, String> {
        let id = text_of(arguments, "invoice_id")?;
        let found = self.invoices.iter().position(|invoice| invoice.id == id);
        found.ok_or_else(|| format!("There is no invoice '{id}'."))
    }
}

impl Invoice {
    fn words(&self) -> String {
        let Self { id, customer, currency, .. } = self;
        format!("{id}: {customer}, {currency} {}, refunded {}", money(self.cents), money(self.refunded))
    }

    fn value(&self) -> Value {
        json!({
            "invoice_id": self.id, "customer": self.customer, "currency": self.currency,
            "amount": money(self.cents), "refunded": money(self.refunded),
        })
    }
}

pub(super) fn tools() -> Vec<Value> {
    let read_only = json!({ "readOnlyHint": true, "openWorldHint": false });
    let writes = json!({ "readOnlyHint": false, "destructiveHint": true, "openWorldHint": false });
    let invoice = json!({ "type": "string", "description": "Its number, e.g. INV-1001." });
    let one = json!({ "type": "object", "required": ["invoice_id"], "properties": { "invoice_id": invoice } });
    vec![
        json!({
            "name": "list_invoices", "title": "List invoices", "annotations": read_only,
            "description": "All invoices, with what was refunded of them.",
            "inputSchema": { "type": "object" },
        }),
        json!({
            "name": "get_invoice", "title": "Look at an invoice", "annotations": read_only,
            "description": "One invoice, with what was refunded of it.", "inputSchema": one,
        }),
        json!({
            "name": "refund", "title": "Refund an invoice", "annotations": writes,
            "description": "Pays an invoice back, or a part of it.",
            "inputSchema": {
                "type": "object", "required": ["invoice_id", "amount", "currency"],
                "properties": {
                    "invoice_id": invoice,
                    "amount": { "type": "number", "exclusiveMinimum": 0, "description": "How much, e.g. 12.50." },
                    "currency": { "type": "string", "enum": ["EUR", "USD"] },
                },
            },
        }),
        json!({
            "name": "delete_invoice", "title": "Delete an invoice", "annotations": writes,
            "description": "Removes an invoice for good.", "inputSchema": one,
        }),
    ]
}

/// A JSON number as cents: from its digits, because 0.1 + 0.2 is no money.
fn cents(amount: Option<&Value>) -> Option<u64> {
    let digits = amount?.as_number()?.to_string();
    let (whole, part) = digits.split_once('.').unwrap_or((&digits, ""));
    if part.len() > 2 {
        return None;
    }
    let cents = whole.parse::<u64>().ok()?.checked_mul(100)?.checked_add(format!("{part:0<2}").parse().ok()?)?;
    (cents > 0).then_some(cents)
}

fn money(cents: u64) -> String {
    format!("{}.{:02}", cents / 100, cents % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_by_their_digits() {
        let check = |amount: Value, want: Option<u64>| assert_eq!(cents(Some(&amount)), want, "{amount}");
        check(json!(12), Some(1200));
        check(json!(12.5), Some(1250));
        check(json!(0.29), Some(29));
        check(json!(0.001), None);
        check(json!(0), None);
        check(json!(-3), None);
        check(json!(1e300), None);
        check(json!(u64::MAX), None);
        check(json!("12"), None);
    }

    #[test]
    fn money_is_refunded_once() {
        let mut payments = Payments::new();
        let mut refund = |amount: f64| {
            let arguments = json!({ "invoice_id": "INV-1002", "amount": amount, "currency": "USD" });
            payments.call("refund", arguments.as_object().unwrap()).unwrap()
        };
        assert_eq!(refund(40.0).unwrap().1["invoice"]["refunded"], "40.00");
        assert!(refund(10.0).unwrap_err().contains("9.50"));
        assert_eq!(refund(9.5).unwrap().1["refund_id"], "REF-2");
        assert!(refund(0.01).is_err());
    }
}
