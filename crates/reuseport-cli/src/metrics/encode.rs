//! Writes the families of the catalogue with `prometheus-client`, for either format.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel as _, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;

use super::catalog::{FAMILIES, Family, Kind, Of};
use super::sample::{Place, Scrape};

/// Labels of a sample: the group or the namespace, the member, and others.
#[derive(Clone, Copy, Default)]
struct Labels<'a> {
    group: Option<&'a str>,
    place: Option<Place>,
    more: &'a [(&'static str, String)],
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        if let Some(group) = self.group {
            ("group", group).encode(encoder.encode_label())?;
        }
        match self.place {
            Some(Place::Slot(slot)) => ("slot", slot).encode(encoder.encode_label())?,
            Some(Place::Cookie(cookie)) => ("cookie", cookie).encode(encoder.encode_label())?,
            None => {}
        }
        for (key, value) in self.more {
            (*key, value).encode(encoder.encode_label())?;
        }
        Ok(())
    }
}

/// Writes a sample of a family.
struct Samples<'a> {
    kind: Kind,
    encoder: MetricEncoder<'a>,
}

impl Samples<'_> {
    fn write(&mut self, labels: &Labels<'_>, value: f64) -> fmt::Result {
        let mut sample = self.encoder.encode_family(labels)?;
        // Whole numbers stay whole, up to 2^53, beyond which Prometheus rounds them itself.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole")]
        let whole = (value.fract() == 0.0 && value >= 0.0).then_some(value as u64);
        match (self.kind, whole) {
            (Kind::Counter, Some(value)) => {
                sample.encode_counter::<NoLabelSet, _, f64>(&value, None)
            }
            (Kind::Counter, None) => sample.encode_counter::<NoLabelSet, _, f64>(&value, None),
            (Kind::Info, _) => sample.encode_info(&[("", ""); 0]),
            (Kind::Gauge, Some(value)) => sample.encode_gauge(&value),
            (Kind::Gauge, None) => sample.encode_gauge(&value),
        }
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        FAMILIES.iter().try_for_each(|family| self.write(family, &mut encoder))
    }
}

#[allow(clippy::cast_precision_loss, reason = "as Prometheus has it")]
fn number(value: u64) -> f64 {
    value as f64
}

impl Scrape {
    fn write(&self, family: &Family, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let kind = match family.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Info => MetricType::Info,
        };
        let unit = family.unit.map(|unit| Unit::Other(unit.to_owned()));
        let encoder = encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
        let mut samples = Samples { kind: family.kind, encoder };
        match &family.of {
            Of::Member(value) => self.members().try_for_each(|(member, place)| {
                let Some(value) = value(member) else { return Ok(()) };
                let group = Some(member.group.name.as_str());
                samples.write(&Labels { group, place: Some(place), more: &[] }, number(value))
            }),
            Of::MemberLabels(_, labels) => self.members().try_for_each(|(member, place)| {
                let Some(more) = labels(member) else { return Ok(()) };
                let group = Some(member.group.name.as_str());
                samples.write(&Labels { group, place: Some(place), more: &more }, 1.0)
            }),
            Of::Group(value) => self.groups.iter().try_for_each(|group| {
                let Some(value) = value(group) else { return Ok(()) };
                samples
                    .write(&Labels { group: Some(&group.name), ..Labels::default() }, number(value))
            }),
            Of::GroupBy(label, values) => self.groups.iter().try_for_each(|group| {
                values(group).into_iter().try_for_each(|(name, value)| {
                    let more = [(*label, name.to_owned())];
                    let labels = Labels { group: Some(&group.name), place: None, more: &more };
                    samples.write(&labels, number(value))
                })
            }),
            Of::GroupLabels(_, labels) => self.groups.iter().try_for_each(|group| {
                let labels = Labels { group: Some(&group.name), place: None, more: &labels(group) };
                samples.write(&labels, 1.0)
            }),
            Of::Namespace(value) => self.namespaces.iter().try_for_each(|namespace| {
                let Some(value) = value(&namespace.counters) else { return Ok(()) };
                let more = [("netns", namespace.name.clone())];
                samples.write(&Labels { more: &more, ..Labels::default() }, number(value))
            }),
            Of::Scrape(value) => samples.write(&Labels::default(), value(self)),
            Of::Build => {
                let more = [("version", env!("CARGO_PKG_VERSION").to_owned())];
                samples.write(&Labels { more: &more, ..Labels::default() }, 1.0)
            }
        }
    }
}
