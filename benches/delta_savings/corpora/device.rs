//! Readings of sensors.

use rand::RngExt;
use rand::rngs::StdRng;
use serde::Serialize;

use super::{cents, time_ms};

#[derive(Serialize)]
pub struct Device {
    device: String,
    model: &'static str,
    site: String,
    firmware: &'static str,
    uptime_s: u64,
    battery_percent: f64,
    rssi_dbm: i32,
    readings: Readings,
    alarms: [&'static str; 0],
    time: u64,
}

#[derive(Serialize)]
struct Readings {
    temperature_c: f64,
    humidity_percent: f64,
    pressure_hpa: f64,
    co2_ppm: u32,
    particles_ug: f64,
}

impl Device {
    pub fn random(at: usize, rng: &mut StdRng) -> Device {
        Device {
            device: format!("{:012x}", rng.random_range(0..1_u64 << 48)),
            model: ["AQ-2", "AQ-2 outdoor"][at % 2],
            site: format!("building {}, floor {}", at / 10, at % 10),
            firmware: "2.14.1",
            uptime_s: rng.random_range(0..5_000_000),
            battery_percent: 100.0,
            rssi_dbm: -60,
            readings: Readings {
                temperature_c: cents(rng.random_range(17.0..26.0)),
                humidity_percent: cents(rng.random_range(30.0..60.0)),
                pressure_hpa: cents(rng.random_range(990.0..1_030.0)),
                co2_ppm: rng.random_range(400..1_200),
                particles_ug: cents(rng.random_range(1.0..20.0)),
            },
            alarms: [],
            time: 0,
        }
    }

    pub fn measure(&mut self, at: usize, rng: &mut StdRng) {
        let Readings { temperature_c, humidity_percent, pressure_hpa, co2_ppm, particles_ug } =
            &mut self.readings;
        *temperature_c = cents(*temperature_c + rng.random_range(-0.1..0.1));
        *humidity_percent = cents(*humidity_percent + rng.random_range(-0.3..0.3));
        *pressure_hpa = cents(*pressure_hpa + rng.random_range(-0.2..0.2));
        *co2_ppm = (*co2_ppm + 10).saturating_sub(rng.random_range(0..=20));
        *particles_ug = cents((*particles_ug + rng.random_range(-0.5..0.5)).max(0.0));
        self.battery_percent = cents(self.battery_percent - 0.01);
        self.rssi_dbm = rng.random_range(-75..-50);
        self.uptime_s += 3;
        self.time = time_ms(at);
    }
}
